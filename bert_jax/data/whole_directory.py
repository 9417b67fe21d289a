"""Directories that appear under their name only when they are whole."""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def whole_directory(directory: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Yields a hidden directory, which becomes `directory` unless there is an error.

    What killed processes left of earlier ones is deleted.

    Raises:
        ValueError: `directory` is a file, or it is not empty and `overwrite` is false.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists() and (
        not directory.is_dir() or (any(directory.iterdir()) and not overwrite)
    ):
        raise ValueError(
            f"directory={directory} is taken: it is a file or not empty. Choose another."
        )
    number = threading.get_native_id()  # the process's own in its first thread
    partial = directory.with_name(f".{directory.name}.{number}.partial")
    # In a container, a process that was killed had the number of the one after it.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        # Not every shared file system has such locks; there, what others left stays.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete_left(directory, "partial")
        yield partial
        # A rename cannot replace a directory that is not empty, so it is moved away.
        old = partial.with_suffix(".old")
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
        # Not before: where a process was killed between the renames, it is all there is.
        _delete_left(directory, "old")
    except OSError as error:
        # Whoever reads of a full disk has never heard of the hidden directory.
        def shown(given: Any) -> Any:
            is_text = isinstance(given, str)
            return given.replace(str(partial), str(directory)) if is_text else given

        error.args = tuple(map(shown, error.args))
        if error.filename is not None:
            error.filename = shown(error.filename)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _delete_left(directory: pathlib.Path, suffix: str) -> None:
    """Deletes the hidden directories that no living process has locked."""
    name = re.compile(rf"\.{re.escape(directory.name)}\.\d+\.{suffix}")
    for left in filter(lambda x: name.fullmatch(x.name), directory.parent.iterdir()):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(lock)
