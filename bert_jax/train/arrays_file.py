"""Arrays of a run in one compressed file, which appears whole and shows its damage."""

import io
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np

from bert_jax.data.atomic_file import write_atomically


def save_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes arrays by name (.npz)."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def load_arrays(
    path: pathlib.Path, names: Collection[str], way_out: str
) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote.

    Args:
        path: of a file that is there.
        names: of the arrays that it must hold.
        way_out: sentence that says what to do when the file is damaged.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        # Each ZIP entry has a checksum, so a changed value is found as well.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except Exception as error:  # as many kinds as there are ways to be damaged
        raise ValueError(f"{path} is damaged ({error}). {way_out}") from None
