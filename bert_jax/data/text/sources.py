"""Opens a source by its name: files of several formats, `docs:` or `tfds:`.

A source consists of sections that are read independently, so the result does not
depend on how many processes read them.
"""

import functools
import glob
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from bert_jax.data.text import docs
from bert_jax.data.text.division import divide_section
from bert_jax.data.text.sections import Section, Source
from bert_jax.data.text.streams import is_tar, without_compression
from bert_jax.data.text.tfds_source import open_tfds

_READABLE = (
    ".txt, .jsonl, .parquet, WikiExtractor output, each also as .gz, .xz, .zst or .bz2, "
    "and .tar (.tar.gz, ...) of these"
)
_REFUSED_SUFFIXES = (
    *(".zip", ".7z", ".rar", ".html", ".htm", ".xml", ".pdf", ".docx", ".odt"),
    *(".arrow", ".feather", ".npy", ".pickle", ".pkl"),
)


def open_source(
    spec: str, *, docs_dir: pathlib.Path | None = None, num_workers: int = 1
) -> Source:
    """Finds the files or the dataset that `spec` names, without reading text.

    Only `docs:` does more: it extracts the documentation unless that is done already.

    Args:
        spec: one of
            `files:GLOB`, or only a path or a glob, in which `**` crosses folders;
            `docs:` or `docs:numpy,jax`, the documentation of packages installed here;
            `tfds:NAME[/CONFIG][:VERSION][:SPLIT][:FIELD]`, see `tfds_source`.
        docs_dir: folder for the text of `docs:`, which is used again as long as the
            packages have the same versions; default: a folder in the user's cache.
        num_workers: number of processes that extract `docs:`.

    Raises:
        ValueError: nothing matches, or a file is empty or of a kind that is not read.
    """
    scheme, colon, rest = spec.partition(":")
    if scheme == "docs" and colon:
        packages = [name.strip() for name in rest.split(",") if name.strip()]
        folder = docs_dir or _docs_cache(packages)
        docs.write_docs_corpus(
            folder, packages=packages or None, num_workers=num_workers
        )
        return _open_files(spec, f"{glob.escape(str(folder))}/{docs.FILE_PATTERN}")
    if scheme == "tfds" and colon:
        return Source(spec, (open_tfds(spec),))
    if scheme == "files" and colon:
        return _open_files(spec, rest)
    if (
        colon
        and scheme.isalpha()
        and len(scheme) > 1
        and not pathlib.Path(spec).exists()
    ):
        raise ValueError(
            f"Source {spec!r} begins with {scheme!r}:, which is not a kind of source; "
            "expected files:GLOB, tfds:NAME or docs:."
        )
    return _open_files(spec, spec)


def divide(
    source: Source,
    target_bytes: int,
    workspace: pathlib.Path,
    map: Callable[[Callable[[Section], Any], Iterable[Section]], Iterable[Any]] = map,
) -> tuple[Section, ...]:
    """Divides large sections of a source into ones of about `target_bytes`.

    Files are divided into ranges of bytes, Parquet into runs of row groups, archives
    into runs of members, TFDS into runs of records. Documents, their order and their
    keys stay the same. A compressed file of more than two targets is unpacked first.
    The result depends on the source and the target alone.

    Args:
        source: from `open_source`.
        target_bytes: size on disk, not compressed. Smaller sections are not joined.
        workspace: folder for unpacked files. Files that an earlier call unpacked there
            are used again; a killed call leaves none that look finished. Delete the
            folder after reading the sections.
        map: works like the built-in function; the `map` of a thread pool unpacks
            several files at a time.

    Raises:
        ValueError: a file that is divided by its content is damaged.
    """
    if target_bytes < 1:
        raise ValueError(f"target_bytes={target_bytes} must be at least 1.")
    large = [x for x in source.sections if x.size_bytes > target_bytes]
    work = functools.partial(
        divide_section, target_bytes=target_bytes, workspace=workspace
    )
    divided = dict(zip(large, map(work, large), strict=True))
    return tuple(
        smaller
        for section in source.sections
        for smaller in divided.get(section, (section,))
    )


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
    # A file whose name holds [ or ] is found by that name before it is a pattern.
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
    return Source(spec, tuple(_open_file(pathlib.Path(path), root) for path in paths))


def _open_file(path: pathlib.Path, root: pathlib.Path) -> Section:
    size = path.stat().st_size
    if size == 0:
        raise ValueError(
            f"{path} is empty; expected text. Remove it or write it again."
        )
    if without_compression(path.name).lower().endswith(_REFUSED_SUFFIXES):
        raise ValueError(
            f"{path} is not of a kind that can be read; expected {_READABLE}. Convert "
            "it first."
        )
    # The name of a file can hold bytes that are not text; keys must be text.
    name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
    return Section(str(path), name, size, kind="tar" if is_tar(path.name) else "file")
