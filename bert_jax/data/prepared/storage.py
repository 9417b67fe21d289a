"""Folders on this machine, on a shared disk or in an object store (gs://, s3://).

Object stores are reached through `etils.epath`, which needs `pip install
'etils[epath-gcs]'` or `'etils[epath-s3]'`, or TensorFlow where that is installed.
"""

import concurrent.futures
import os
import pathlib
import uuid
from collections.abc import Iterable
from typing import TypeAlias

from etils import epath

Folder: TypeAlias = pathlib.Path | epath.Path

_COPIES_AT_ONCE = 16


def open_folder(name: str | os.PathLike[str]) -> epath.Path:
    """A folder by a name that means the same to every process of this machine."""
    folder = epath.Path(name)
    return folder if is_in_store(folder) else folder.expanduser().resolve()


def is_in_store(folder: Folder | str) -> bool:
    """Whether it is in an object store, which knows no locks."""
    return "://" in os.fspath(folder)


def write_text_atomically(path: Folder, text: str) -> None:
    """A reader sees the old file or the whole new one."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def put(file: pathlib.Path, path: epath.Path) -> None:
    """Copies a file of this machine; a reader sees the old one or the whole new one."""
    # Several machines may do the same work, so that a process number is no name.
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex}")
    epath.Path(file).copy(partial)
    partial.replace(path)


def copy_all(pairs: Iterable[tuple[Folder, Folder]]) -> None:
    """Copies files, several at a time: each of a store's answers takes a while.

    Args:
        pairs: (from, to); what is there already is overwritten.
    """
    with concurrent.futures.ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        copies = [
            pool.submit(epath.Path(source).copy, target, overwrite=True)
            for source, target in pairs
        ]
        for copied in copies:
            copied.result()
