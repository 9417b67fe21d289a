"""Opens files by a path or a glob: `files:GLOB`."""

import collections
import glob
import os
import pathlib

from bert_jax.data.plural import plural
from bert_jax.data.text.sections import Request, Section, Source
from bert_jax.data.text.streams import is_tar, without_compression

_READABLE = (
    ".txt, .jsonl, .parquet, WikiExtractor output, each also as .gz, .xz, .zst or .bz2, "
    "and .tar (.tar.gz, ...) of these"
)
_REFUSED_SUFFIXES = (
    *(
        ".csv",
        ".tsv",
        ".xlsx",
        ".zip",
        ".7z",
        ".rar",
        ".html",
        ".htm",
        ".xml",
        ".pdf",
        ".docx",
        ".odt",
    ),
    *(".arrow", ".feather", ".npy", ".pickle", ".pkl"),
)


def open_files(request: Request) -> Source:
    """The files that a path or a glob names, in which `**` crosses folders.

    Raises:
        ValueError: nothing matches, or a file is empty or of a kind that is not read.
    """
    spec = request.spec
    # Absolute, so that a command that continues elsewhere reads no other files.
    pattern = os.path.abspath(os.path.expanduser(request.rest))
    if pathlib.Path(pattern).is_dir():
        raise ValueError(
            f"Source {spec!r} is a folder; name its files, for example "
            f"files:{pattern}/**/*{_most_frequent_suffix(pathlib.Path(pattern))}."
        )
    # A file whose name holds [ or ] is found by that name before it is a pattern.
    literal = pathlib.Path(pattern).is_file()
    found = [pattern] if literal else glob.glob(pattern, recursive=True)
    for path in found:
        if os.path.islink(path) and not os.path.exists(path):
            raise ValueError(
                f"{path} is a link to {os.readlink(path)}, which is not there; expected "
                "text. Remove the link or bring the file back."
            )
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise ValueError(
                f"{path} is a pipe or a device; expected a file, because text is read more "
                "than once. Write its text to a file first."
            )
    # In the order of their bytes, which no locale changes; `**` can find a file twice.
    paths = sorted({path for path in found if os.path.isfile(path)}, key=os.fsencode)
    if not paths and found:
        raise ValueError(
            f"Source {spec!r} matches {plural(len(found), 'folder')} and no file; name the files "
            f"in them, for example files:{pattern}/*."
        )
    if not paths:
        raise ValueError(
            f"Source {spec!r} matches no file; expected {_READABLE}. Check the path, "
            "and quote the pattern so that the shell does not expand it."
        )
    root = pathlib.Path(pattern).parent
    while not literal and glob.has_magic(str(root)):
        root = root.parent
    return Source(
        (f"files:{pattern}",),
        tuple(_open_file(pathlib.Path(path), root) for path in paths),
        str(root),
    )


def _most_frequent_suffix(folder: pathlib.Path) -> str:
    """With the dot; "" if no file there has one."""
    files = (path for path in folder.iterdir() if path.is_file())
    suffixes = collections.Counter(path.suffix for path in files)
    return max(suffixes, key=lambda suffix: (suffixes[suffix], suffix), default="")


def _open_file(path: pathlib.Path, root: pathlib.Path) -> Section:
    size = path.stat().st_size
    if size == 0:
        raise ValueError(
            f"{path} is empty; expected text. Remove it or write it again."
        )
    refuse_other_kinds(str(path))
    # The name of a file can hold bytes that are not text; keys must be text.
    name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
    return Section(str(path), name, size, kind="tar" if is_tar(path.name) else "file")


def refuse_other_kinds(name: str) -> None:
    """Raises ValueError for a file, or a member of an archive, that is no text by its name."""
    if without_compression(name).lower().endswith(_REFUSED_SUFFIXES):
        raise ValueError(
            f"{name} is not of a kind that can be read; expected {_READABLE}. Convert "
            "it first; of a table, write the column with the text as .jsonl or .parquet."
        )
