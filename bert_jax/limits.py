"""Checks on the host that every id has a row in the table that it indexes.

A device reports no error for an id outside its table: it reads another row or NaN. And
the token table is padded to a multiple of 128, which hides ids that are a little too
large.
"""

from typing import Any

import numpy as np

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import ModelConfig

NUM_NSP_CLASSES = 2


def check_range(name: str, values: Any, limit: int, meaning: str) -> None:
    """Refuses values outside [0, limit).

    Args:
        name: name of the array, for the message.
        values: integers of any shape, in any form that NumPy can read.
        limit: smallest value that is too large.
        meaning: what sets the limit, for the message.

    Raises:
        ValueError: a value is out of range; the message names the first such value, its
            place and the limit.
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

    It reads each array twice: 0.03 ms for 256 rows of 512 tokens in cache.

    Args:
        cfg: architecture that the batch is for.
        batch: `PretrainBatch` or `ClassifyBatch` of NumPy arrays. Task labels are not
            checked: each task makes them from names that it knows.

    Raises:
        ValueError: an id is out of range; the message names the field, the value, its
            [row, column] and the limit.
    """
    kind = type(batch).__name__
    if not isinstance(batch, PretrainBatch | ClassifyBatch):
        raise TypeError(f"{kind} is neither a PretrainBatch nor a ClassifyBatch.")
    length = batch.input_ids.shape[-1]
    if length > cfg.max_positions:
        raise ValueError(
            f"{kind} holds rows of {length} tokens, more than ModelConfig.max_positions="
            f"{cfg.max_positions}; shorten them or enlarge the table."
        )
    limits = [("input_ids", cfg.vocab_size, "ModelConfig.vocab_size")]
    if cfg.num_segments > 1:
        limits.append(("segment_ids", cfg.num_segments, "ModelConfig.num_segments"))
    if isinstance(batch, PretrainBatch):
        limits += [
            ("position_ids", cfg.max_positions, "ModelConfig.max_positions"),
            ("cls_positions", length, "the row's tokens"),
            ("nsp_labels", NUM_NSP_CLASSES, "next-sentence classes"),
        ]
    for name, limit, meaning in limits:
        check_range(f"{kind}.{name}", getattr(batch, name), limit, meaning)
