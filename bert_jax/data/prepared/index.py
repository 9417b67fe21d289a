"""The tokens of a split laid out as memory-mapped arrays, which are checked when opened.

They lie in `index/` beside the shards or, if nothing can be written there, in the
user's cache. `index.json` is written with them and holds hashes of every 16 MiB, so that
all cores check a large array: about 0.9 GB/s a core, a second for a billion tokens on
two cores.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import sys
from collections.abc import Callable

from bert_jax.data.cache_folder import cache_folder
from bert_jax.data.json_file import read_json, write_json
from bert_jax.data.prepared.store import TokenStore, open_store

_CHUNK_BYTES = 16 << 20
_HASHES = "index.json"


def index_home(directory: pathlib.Path, sha256: str) -> pathlib.Path:
    """The folder for what is made from a dataset: beside its shards, or in the cache.

    Args:
        directory: of the dataset.
        sha256: of the dataset's content, which names the folder in the cache.
    """
    own = directory / "index"
    if os.access(own if own.exists() else directory, os.W_OK):
        return own
    return cache_folder(f"index-{sha256[:16]}")


def open_index(
    directory: pathlib.Path,
    sha256: str,
    split: str,
    sizes: tuple[int, int, int],
    write: Callable[[pathlib.Path], None],
) -> TokenStore:
    """The arrays of a split, which are written if they are not there yet.

    Args:
        directory: of the dataset.
        sha256: of the dataset's content.
        split: name of the split.
        sizes: how many elements the arrays of the `TokenStore` must have.
        write: writes the arrays into an empty folder.

    Raises:
        ValueError: the arrays are those of another dataset, or do not have the hashes
            that they were written with.
    """
    home = index_home(directory, sha256)
    places = [directory / "index" / split, home / split]
    index = next((place for place in places if place.exists()), home / split)
    if not index.exists():
        if home != directory / "index":
            print(
                f"{directory} cannot be written to. The arrays of its split {split!r} are "
                f"laid out in {index}, and are found there the next time.",
                file=sys.stderr,
            )
        _write(index, sha256, write)
    _check(index, sha256)
    store = open_store(*_array_files(index))
    if tuple(array.size for array in store) != sizes:
        raise _foreign(index)
    return store


def _array_files(index: pathlib.Path) -> list[pathlib.Path]:
    return [index / f"{name}.npy" for name in TokenStore._fields]


def _write(
    index: pathlib.Path, sha256: str, write: Callable[[pathlib.Path], None]
) -> None:
    partial = index.with_name(f"{index.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        hashes = {path.name: _chunk_hashes(path) for path in _array_files(partial)}
        write_json(partial / _HASHES, {"dataset": sha256, "files": hashes})
        try:
            os.replace(partial, index)
        except OSError:
            # Another process finished first; it wrote the same arrays.
            if not index.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(index: pathlib.Path, sha256: str) -> None:
    """Raises ValueError unless every byte is as it was written, for this dataset."""
    try:
        written = read_json(index / _HASHES, _way_out(index))
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if written["dataset"] != sha256:
        raise _foreign(index)
    hashes = written["files"]
    for path in _array_files(index):
        if not path.is_file() or _chunk_hashes(path) != hashes.get(path.name):
            raise ValueError(
                f"{path} is damaged: it does not have the hashes in {_HASHES} that it "
                f"was written with. {_way_out(index)}"
            )


def _chunk_hashes(path: pathlib.Path) -> list[str]:
    """SHA-256 of every `_CHUNK_BYTES` of a file, by all cores at a time."""
    size = path.stat().st_size

    def hash_at(start: int) -> str:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(_CHUNK_BYTES)).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(hash_at, range(0, size, _CHUNK_BYTES)))


def _foreign(index: pathlib.Path) -> ValueError:
    return ValueError(f"{index} does not belong to this dataset. {_way_out(index)}")


def _way_out(index: pathlib.Path) -> str:
    return (
        f"Delete the folder {index}; it will be written again from the shards of the "
        "dataset, which have hashes of their own."
    )
