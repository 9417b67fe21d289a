"""The logits of a run's held-out examples, kept so that runs can be compared later."""

import io
import pathlib
import zipfile
import zlib

import numpy as np

from bert_jax.data.atomic_file import write_atomically
from bert_jax.runtime.agreement import on_first_host

NAME = "held_out_logits.npz"


def save_logits(run: pathlib.Path, logits: np.ndarray) -> None:
    """Writes the logits of the final evaluation on the first host.

    Args:
        logits: float32 [rows, ...], rows in the order of the task's encoding.
    """
    content = io.BytesIO()
    np.savez_compressed(content, logits=logits)
    on_first_host(
        f"logits of {run}", lambda: write_atomically(run / NAME, content.getvalue())
    )


def load_logits(run: pathlib.Path) -> np.ndarray:
    """Reads what `save_logits` wrote.

    Raises:
        FileNotFoundError: the run has not finished.
        ValueError: the file is damaged.
    """
    path = run / NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{run} has no {NAME}, which a run writes when it is finished. Start its "
            "command again to finish it."
        )
    try:
        # Its ZIP entry has a checksum, so a changed value is found as well.
        with np.load(path, allow_pickle=False) as content:
            logits: np.ndarray = content["logits"]
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it and {run / 'results.json'}, and "
            "start the command that made the run again: it makes both again."
        ) from None
    return logits
