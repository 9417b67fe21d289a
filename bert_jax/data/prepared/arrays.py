"""Arrays as files: .npy, or .npy.gz for an array that is mostly zeros."""

import gzip
import pathlib

import numpy as np


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array, compressed if `path` ends with .gz, always to the same bytes."""
    with path.open("wb") as file:
        if path.suffix != ".gz":
            np.save(file, array, allow_pickle=False)
            return
        # Neither a file name nor the time is stored.
        with gzip.GzipFile(
            "", "wb", compresslevel=1, fileobj=file, mtime=0
        ) as compressed:
            np.save(compressed, array, allow_pickle=False)


def load_array(path: pathlib.Path) -> np.ndarray:
    """Opens what `save_array` wrote: memory-mapped, or in memory if it is compressed."""
    if path.suffix != ".gz":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with gzip.open(path, "rb") as compressed:
        return np.load(compressed, allow_pickle=False)
