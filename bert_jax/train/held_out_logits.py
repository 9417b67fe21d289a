"""The logits of a run's held-out examples, kept so that runs can be compared later."""

import pathlib

import numpy as np

from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.arrays_file import load_arrays, save_arrays

NAME = "held_out_logits.npz"


def save_logits(run: pathlib.Path, logits: np.ndarray) -> None:
    """Writes the logits of the final evaluation on the first host.

    Args:
        logits: float32 [rows, ...], rows in the order of the task's encoding.
    """
    on_first_host(
        f"logits of {run}", lambda: save_arrays(run / NAME, {"logits": logits})
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
    way_out = (
        f"Delete it and {run / 'results.json'}, and start the command that made the run "
        "again: it makes both again."
    )
    return load_arrays(path, ["logits"], way_out)["logits"]
