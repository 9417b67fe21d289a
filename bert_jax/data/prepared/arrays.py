"""Arrays as files: .npy, or .npy.gz where most of an array is zero."""

import gzip
import pathlib

import numpy as np


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes the same bytes for the same array; compressed by the name."""
    with path.open("wb") as file:
        if path.suffix != ".gz":
            np.save(file, array, allow_pickle=False)
            return
        # Neither a name nor the time goes into the file.
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            np.save(packed, array, allow_pickle=False)


def load_array(path: pathlib.Path) -> np.ndarray:
    """Reads what `save_array` wrote; memory-mapped unless it is compressed."""
    if path.suffix != ".gz":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with gzip.open(path, "rb") as packed:
        return np.load(packed, allow_pickle=False)
