"""Directories that are there whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def whole_directory(directory: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """A hidden sibling to write into, which becomes `directory` when all went well.

    Raises:
        ValueError: `directory` has something in it and `overwrite` is not set.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists() and (
        not directory.is_dir() or (any(directory.iterdir()) and not overwrite)
    ):
        raise ValueError(
            f"directory={directory} is taken; choose another, or one that may be "
            "overwritten."
        )
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        # A rename replaces no directory with something in it, so that steps aside.
        old = partial.with_suffix(".old")
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
