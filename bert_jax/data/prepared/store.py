"""The tokens of a split as one stream, which worker processes open by file name."""

import pathlib
from typing import Any, NamedTuple

import numpy as np


class TokenStore(NamedTuple):
    """A tokenised corpus: its tokens, and the bounds of its sentences and documents.

    No sentence and no document is empty. The arrays must be memory-mapped `.npy` files
    to be pickled: then only their paths are.
    """

    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_starts: np.ndarray  # int64 [sentences + 1], offsets in `tokens`
    document_starts: np.ndarray  # int64 [documents + 1], offsets in sentences

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, tuple(map(_path, self._fields, self))


def _path(name: str, array: np.ndarray) -> pathlib.Path:
    if not isinstance(array, np.memmap) or array.filename is None:
        raise ValueError(
            f"TokenStore.{name} is held in memory and would be copied into every worker "
            "process; open it with np.load(..., mmap_mode='r'), as "
            "PreparedDataset.load_split does, or set data.num_workers to 0."
        )
    return pathlib.Path(array.filename).absolute()


def open_store(*paths: pathlib.Path) -> TokenStore:
    """The store whose arrays lie in these files, in their order."""
    return TokenStore(
        *(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
    )
