"""Documents from text sources: files of several formats, or `docs:`.

A source is a list of independent units of work, so that any number of processes
can read it and the result does not depend on how many there were.
"""

import dataclasses
import glob
import gzip
import hashlib
import html
import io
import itertools
import json
import lzma
import os
import pathlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

import sentencex  # type: ignore[import-untyped]

from bert_jax.data import docs

# Every worker unpacks the whole archive and reads its share of the members:
# unpacking is far cheaper than tokenising, so more parts keep more cores busy.
TAR_BYTES_PER_PART = 8 << 20
MAX_TAR_PARTS = 8

_READABLE = (
    ".txt, .jsonl, WikiExtractor output, each also as .gz or .xz, and .tar.gz or "
    ".tar.xz of these"
)
_TAR_SUFFIXES = (".tar.xz", ".tar.gz", ".tgz", ".txz")
_REFUSED_SUFFIXES = (".zst", ".bz2", ".zip", ".7z", ".parquet", ".tar", ".html", ".xml")
_BROKEN_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)

_SURROGATE = re.compile("[\ud800-\udfff]")
# Controls that separate words (vertical tab, form feed, NEL, ...), and the others.
_CONTROL_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_DOC_OPEN = re.compile(r"<doc\s+(.*)>\s*$")
_DOC_ATTRIBUTE = re.compile(r'(\w+)="(.*?)"(?=\s+\w+="|\s*$)')


@dataclasses.dataclass(frozen=True)
class Document:
    """One text, its paragraphs a line each (blank lines allowed)."""

    text: str
    key: str
    """Unique in its source and the same on every machine."""
    group: str
    """What must not be split between training and validation."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """An independent piece of work; picklable, so that workers can take it."""

    path: str
    name: str
    """How keys begin: the path below the fixed part of the pattern."""
    size_bytes: int
    """On disk, this unit's share; a weight for progress, not a text length."""
    part: int = 0
    num_parts: int = 1
    """Of an archive, the members with index = part (mod num_parts)."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Units in a stable order."""

    spec: str
    units: tuple[Unit, ...]

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.units)


@dataclasses.dataclass
class ReadStats:
    """What reading met. Add those of several units with `+` or `sum(..., start)`."""

    documents: int = 0
    characters: int = 0
    undecodable_bytes: int = 0
    """Not UTF-8 (or lone surrogates in JSON); each became U+FFFD."""
    control_characters: int = 0
    """Removed; those that separate words became a space."""

    def __add__(self, other: "ReadStats") -> "ReadStats":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return ReadStats(*(mine + its for mine, its in pairs))


def open_source(
    spec: str, *, docs_dir: pathlib.Path | None = None, num_workers: int = 1
) -> Source:
    """Finds what `spec` names. Reads no text, except that `docs:` is extracted.

    Args:
        spec: `files:GLOB`, a path or a glob (`**` crosses folders); or `docs:`, or
            `docs:numpy,jax`, the documentation of packages installed here.
        docs_dir: where `docs:` keeps its extract, which is used again while the
            packages' versions stay; by default a folder of the user's cache.
        num_workers: processes that extract `docs:`.

    Raises:
        ValueError: nothing matches, or a match is empty or not a readable kind.
    """
    scheme, colon, rest = spec.partition(":")
    if scheme == "docs" and colon:
        packages = [name.strip() for name in rest.split(",") if name.strip()]
        folder = docs_dir or _docs_cache(packages)
        docs.write_docs_corpus(
            folder, packages=packages or None, num_workers=num_workers
        )
        return _open_files(spec, f"{glob.escape(str(folder))}/{docs.FILE_PATTERN}")
    if scheme == "files" and colon:
        return _open_files(spec, rest)
    if (
        colon
        and scheme.isalpha()
        and len(scheme) > 1
        and not pathlib.Path(spec).exists()
    ):
        raise ValueError(
            f"Source {spec!r} begins with {scheme!r}:, which is not known here; "
            "expected files:GLOB or docs:."
        )
    return _open_files(spec, spec)


def read_unit(unit: Unit, stats: ReadStats | None = None) -> Iterator[Document]:
    """The documents of one unit, in file order.

    Args:
        unit: from `open_source(...).units`.
        stats: counted up while reading, if given.

    Raises:
        ValueError: the file is damaged, binary, holds no document or wrong JSON; the
            message names the file and, where there is one, the line.
    """
    stats = ReadStats() if stats is None else stats
    found = False
    try:
        for name, stream in _open_streams(unit):
            for document in _read_stream(stream, name, stats):
                found = True
                stats.documents += 1
                stats.characters += len(document.text)
                yield document
    except _BROKEN_STREAM as error:
        raise ValueError(
            f"Cannot read {unit.path}: {error}. Check that the file is whole and of the "
            "kind that its name says."
        ) from error
    if not found and unit.num_parts == 1:
        raise ValueError(
            f"{unit.path} holds no document; expected text. Remove it from the source."
        )


def sentences(document_text: str, language: str = "en") -> list[str]:
    """Splits into sentences; none crosses a line, whitespace is squeezed.

    Args:
        document_text: paragraphs a line each.
        language: ISO 639-1 code; one that sentencex does not know is cut as English.
    """
    found = []
    for line in document_text.splitlines():
        paragraph = " ".join(line.split())
        if paragraph:
            found += [s.strip() for s in sentencex.segment(language, paragraph)]
    return [sentence for sentence in found if sentence]


def validation_group(group: str, fraction: float) -> bool:
    """Whether documents of `group` are held out: a pure function of its name.

    Args:
        group: `Document.group`.
        fraction: expected share of groups held out, in [0, 1).

    Raises:
        ValueError: the fraction is outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(
            f"The validation fraction {fraction} is not in [0, 1); 0 holds nothing out."
        )
    digest = hashlib.blake2b(group.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _docs_cache(packages: list[str]) -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base, "bert_jax", "-".join(["docs", *packages]))


def _open_files(spec: str, pattern: str) -> Source:
    pattern = os.path.expanduser(pattern)
    if pathlib.Path(pattern).is_dir():
        raise ValueError(
            f"Source {spec!r} is a folder; name its files, for example "
            f"files:{pattern.rstrip('/')}/*.jsonl."
        )
    # A name that holds [ or ] is itself before it is a pattern.
    literal = pathlib.Path(pattern).is_file()
    paths = [pattern] if literal else sorted(glob.glob(pattern, recursive=True))
    paths = [path for path in paths if pathlib.Path(path).is_file()]
    if not paths:
        raise ValueError(
            f"Source {spec!r} matches no file; expected {_READABLE}. Check the path, "
            "and quote the pattern so that the shell does not expand it."
        )
    root = pathlib.Path(pattern).parent
    while not literal and glob.has_magic(str(root)):
        root = root.parent
    units = [unit for path in paths for unit in _file_units(pathlib.Path(path), root)]
    return Source(spec, tuple(units))


def _file_units(path: pathlib.Path, root: pathlib.Path) -> list[Unit]:
    size = path.stat().st_size
    if size == 0:
        raise ValueError(
            f"{path} is empty; expected text. Remove it or write it again."
        )
    if path.name.lower().endswith(_REFUSED_SUFFIXES):
        raise ValueError(
            f"{path} is not of a kind that can be read; expected {_READABLE}. Convert "
            "it first."
        )
    name = path.relative_to(root).as_posix()
    if not path.name.lower().endswith(_TAR_SUFFIXES):
        return [Unit(str(path), name, size)]
    num_parts = min(MAX_TAR_PARTS, -(-size // TAR_BYTES_PER_PART))
    share = -(-size // num_parts)
    return [Unit(str(path), name, share, k, num_parts) for k in range(num_parts)]


def _open_streams(unit: Unit) -> Iterator[tuple[str, IO[bytes]]]:
    """The plain files of a unit, decompressed, each with its name."""
    with open(unit.path, "rb") as file:
        if not unit.path.lower().endswith(_TAR_SUFFIXES):
            yield unit.name, _decompressed(file, unit.path)
            return
        index = -1
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                base = member.name.rpartition("/")[2]
                if not member.isfile() or member.size == 0 or base.startswith("."):
                    continue
                index += 1
                if index % unit.num_parts == unit.part:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    name = f"{unit.name}/{member.name}"
                    yield name, _decompressed(stream, member.name)
    if index < 0:
        raise ValueError(f"{unit.path} holds no files; expected {_READABLE}.")


def _decompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    if name.lower().endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    if name.lower().endswith(".xz"):
        return io.BufferedReader(lzma.LZMAFile(stream))
    return stream


def _read_stream(stream: IO[bytes], name: str, stats: ReadStats) -> Iterator[Document]:
    lines = _decoded_lines(stream, name)
    first = next((item for item in lines if item[1].strip()), (0, ""))
    lines = itertools.chain([first], lines)
    opening = first[1].strip()
    plain_name = re.sub(r"\.(gz|xz)$", "", name.lower())
    if opening.startswith("<doc "):
        return _read_wiki(lines, name, stats)
    # WikiExtractor's --json output has no suffix either.
    if plain_name.endswith((".jsonl", ".json")) or (
        opening.startswith("{") and not plain_name.endswith(".txt")
    ):
        return _read_json_lines(lines, name, stats)
    return _read_text(lines, name, stats)


def _decoded_lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Numbered lines from 1; a byte that is not UTF-8 becomes a lone surrogate."""
    for number, raw in enumerate(stream, start=1):
        if number == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise ValueError(f"{name} is UTF-16; expected UTF-8. Convert it first.")
            if b"\0" in raw[:4096] and raw[:4096].count(0) > len(raw[:4096]) // 50:
                raise ValueError(f"{name} is not text; expected {_READABLE}.")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        yield number, raw.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _cleaned(text: str, stats: ReadStats) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _UNWANTED.search(text):
        text, count = _SURROGATE.subn("\ufffd", text)
        stats.undecodable_bytes += count
        text, num_spaces = _CONTROL_SPACE.subn(" ", text)
        text, num_others = _CONTROL.subn("", text)
        stats.control_characters += num_spaces + num_others
    return text.strip()


def _read_text(
    lines: Iterator[tuple[int, str]], name: str, stats: ReadStats
) -> Iterator[Document]:
    block: list[str] = []
    count = 0
    for _, line in itertools.chain(lines, [(0, "")]):  # the end ends a document
        if line.strip():
            block.append(line)
            continue
        text = _cleaned("\n".join(block), stats)
        block = []
        if text:
            key = f"{name}#{count}"
            count += 1
            yield Document(text, key, key)


def _read_json_lines(
    lines: Iterator[tuple[int, str]], name: str, stats: ReadStats
) -> Iterator[Document]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: not JSON ({error.msg}, column {error.colno}); "
                'expected one object a line, like {"text": "..."}.'
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise ValueError(
                f'{name}, line {number}: {line[:60]!r} has no string "text"; expected '
                'one object a line, like {"text": "..."}.'
            )
        key = _cleaned(str(record.get("key") or f"{name}#{number}"), stats)
        group = _cleaned(str(record.get("group") or key), stats)
        text = _cleaned(record["text"], stats)
        if text:
            yield Document(text, key, group)


def _read_wiki(
    lines: Iterator[tuple[int, str]], name: str, stats: ReadStats
) -> Iterator[Document]:
    attributes: dict[str, str] | None = None
    opened_at = 0
    body: list[str] = []
    for number, line in lines:
        opening = _DOC_OPEN.match(line) if line.startswith("<doc ") else None
        if attributes is None:
            if opening:
                attributes = dict(_DOC_ATTRIBUTE.findall(opening[1]))
                opened_at, body = number, []
            elif line.strip():
                raise ValueError(
                    f"{name}, line {number}: {line[:60]!r} stands outside "
                    "<doc ...> and </doc>; expected WikiExtractor output."
                )
        elif opening:
            break
        elif line.strip() == "</doc>":
            # WikiExtractor escapes <, > and & unless told not to.
            text = _cleaned(html.unescape("\n".join(body)), stats)
            key = f"{name}#{attributes.get('id', opened_at)}"
            # The article's address, so that its copies stay on one side.
            group = attributes.get("url") or key
            attributes = None
            if text:
                yield Document(text, key, group)
        else:
            body.append(line)
    if attributes is not None:
        raise ValueError(
            f"{name}, line {opened_at}: this <doc> is not closed with </doc>; the file "
            "seems to be cut off. Write it again."
        )
