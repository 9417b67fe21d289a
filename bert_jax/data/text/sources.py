"""What a source names: files of several formats, `docs:` or `tfds:`, as units.

Units are independent, so that any number of processes can read them and the result
does not depend on how many there were.
"""

import functools
import glob
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from bert_jax.data.text import docs
from bert_jax.data.text.division import divide_unit
from bert_jax.data.text.streams import is_tar, without_compression
from bert_jax.data.text.tfds_source import open_tfds
from bert_jax.data.text.units import Source, Unit

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
    """Finds what `spec` names. Reads no text, except that `docs:` is extracted.

    Args:
        spec: `files:GLOB`, a path or a glob (`**` crosses folders); `docs:`, or
            `docs:numpy,jax`, the documentation of packages installed here; or
            `tfds:NAME[/CONFIG][:VERSION][:SPLIT][:FIELD]`, see `tfds_source`.
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
            f"Source {spec!r} begins with {scheme!r}:, which is not known here; "
            "expected files:GLOB, tfds:NAME or docs:."
        )
    return _open_files(spec, spec)


def divide(
    source: Source,
    target_bytes: int,
    workspace: pathlib.Path,
    map: Callable[[Callable[[Unit], Any], Iterable[Unit]], Iterable[Any]] = map,
) -> tuple[Unit, ...]:
    """Units of about `target_bytes` with the documents of `source`, in its order.

    Files are divided into ranges of bytes, Parquet into runs of row groups, archives
    into runs of members, TFDS into runs of records; keys do not change. What is
    compressed and larger than two targets is unpacked first. The result follows from
    the source and the target alone.

    Args:
        source: from `open_source`.
        target_bytes: on disk, unpacked; a small file is not joined with others.
        workspace: for unpacked files. What an earlier call unpacked is used again, and
            a call that was killed leaves nothing that would be; delete the folder when
            the units are read.
        map: like the built-in; that of a pool unpacks several files at a time.

    Raises:
        ValueError: a file that has to be looked into is damaged.
    """
    if target_bytes < 1:
        raise ValueError(f"target_bytes={target_bytes} must be at least 1.")
    large = [unit for unit in source.units if unit.size_bytes > target_bytes]
    work = functools.partial(
        divide_unit, target_bytes=target_bytes, workspace=workspace
    )
    shares = dict(zip(large, map(work, large), strict=True))
    return tuple(share for unit in source.units for share in shares.get(unit, (unit,)))


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
    return Source(spec, tuple(_open_file(pathlib.Path(path), root) for path in paths))


def _open_file(path: pathlib.Path, root: pathlib.Path) -> Unit:
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
    # A file's name may hold bytes that are no text; keys must be.
    name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
    return Unit(str(path), name, size, kind="tar" if is_tar(path.name) else "file")
