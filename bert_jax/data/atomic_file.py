"""Files that appear under their name only when they are whole."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TextIO, TypeAlias

from etils import epath

AnyPath: TypeAlias = pathlib.Path | epath.Path


def write_atomically(path: AnyPath, content: str | bytes) -> None:
    """Writes a file; a reader sees the old content or all of the new, never a part.

    Args:
        path: on this machine, or in an object store.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: it cannot be written; the error names the file, and nothing is left over.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def open_atomically(path: pathlib.Path) -> Iterator[TextIO]:
    """A text file in UTF-8 to write bit by bit; it has its name when the block has ended.

    Raises:
        OSError: it cannot be written; the error names the file. After this and every other
            error in the block, the old content is still there and nothing is left over.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
