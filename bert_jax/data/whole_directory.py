"""Directories that appear under their name only when they are whole."""

import contextlib
import pathlib
import shutil
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def whole_directory(directory: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Yields a hidden directory, which becomes `directory` unless there is an error.

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
    try:
        yield partial
        # A rename cannot replace a directory that is not empty, so it is moved away.
        old = partial.with_suffix(".old")
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
