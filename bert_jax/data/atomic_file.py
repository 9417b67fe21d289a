"""Files that appear under their name only when they are whole and on the disk.

Without `fsync`, a machine that loses power may keep the new name of a file and not its
content.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
from collections.abc import Iterator
from typing import IO, Any, Literal, TypeAlias

from etils import epath

AnyPath: TypeAlias = pathlib.Path | epath.Path

_PARTIAL = ".partial-"


def write_atomically(path: AnyPath, content: str | bytes) -> None:
    """Writes a file; a reader sees the old content or all of the new, never a part.

    Args:
        path: on this machine, or in an object store.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: it cannot be written; the error names the file, and nothing is left over.
    """
    with open_atomically(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomically(path: AnyPath, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A file to write bit by bit; it has its name when the block has ended.

    A pipe or a device, such as /dev/stdout, is written as it is: the new file would
    take its place, and its reader would wait for ever.

    Args:
        path: on this machine, or in an object store.
        mode: w: text in UTF-8. wb: bytes.

    Raises:
        OSError: it cannot be written; the error names the file. After this and every other
            error in the block, the old content is still there and nothing is left over.
    """
    encoding = "utf-8" if mode == "w" else None
    if isinstance(path, pathlib.Path) and path.exists() and not path.is_file():
        with path.open(mode, encoding=encoding) as file:
            yield file
        return
    partial = path.with_name(f"{path.name}{_PARTIAL}{os.getpid()}")
    try:
        with partial.open(mode, encoding=encoding) as file:
            if isinstance(path, pathlib.Path):  # so `remove_leftovers_of` leaves it
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
        _to_disk(partial)
        partial.replace(path)
        _to_disk(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def remove_leftovers(folder: pathlib.Path) -> None:
    """Deletes the partial files that killed processes left; nobody may be writing there."""
    for path in folder.glob(f"*{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            path.unlink()  # of a directory it is an error


def remove_leftovers_of(path: pathlib.Path) -> None:
    """Deletes the partial files of one file that killed processes left.

    Others may be writing it: what a living process has locked stays.
    """
    name = re.compile(rf"{re.escape(path.name + _PARTIAL)}\d+")
    for left in filter(lambda x: name.fullmatch(x.name), path.parent.iterdir()):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _to_disk(path: AnyPath) -> None:
    """Returns when a file, or the names in a folder, would outlive a loss of power."""
    if "://" in os.fspath(path):
        return  # an object store has no half-written objects
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some file systems cannot do it for a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
