"""Folders of this machine, of a shared disk or of an object store (gs://, s3://).

Object stores are reached through `etils.epath`, which needs `pip install
'etils[epath-gcs]'` or `'etils[epath-s3]'`, or TensorFlow where that is installed.
"""

import concurrent.futures
import os
import pathlib
import uuid
from collections.abc import Iterable

from etils import epath

from bert_jax.data.atomic_file import AnyPath

_COPIES_AT_ONCE = 16


def open_folder(name: str | os.PathLike[str]) -> epath.Path:
    """The folder of that name, as an absolute path or as an address in a store."""
    folder = epath.Path(name)
    return folder if is_in_store(folder) else folder.expanduser().resolve()


def is_in_store(folder: AnyPath | str) -> bool:
    """Whether the folder is in an object store, where files cannot be locked."""
    return "://" in os.fspath(folder)


def put(file: pathlib.Path, path: epath.Path) -> None:
    """Copies a file of this machine; a reader sees the old content or all of the new."""
    # Several machines may write the same file, so a process number is not unique.
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex}")
    epath.Path(file).copy(partial)
    partial.replace(path)


def copy_all(pairs: Iterable[tuple[AnyPath, AnyPath]]) -> None:
    """Copies files, several at a time because an object store answers slowly.

    Args:
        pairs: (from, to); an existing file is overwritten.
    """
    with concurrent.futures.ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        copies = [
            pool.submit(epath.Path(source).copy, target, overwrite=True)
            for source, target in pairs
        ]
        for copied in copies:
            copied.result()
