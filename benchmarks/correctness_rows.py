"""Packed rows, the same sequences alone, and the same with one of them changed.

Shape suffixes: B rows, T tokens of a row, P pairs of a row, M masked slots.
"""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.train_models import SPECIAL, Task, mask_rows, synthetic_batch
from bert_jax.batch import PretrainBatch
from bert_jax.model.masking import MaskedBatch


class Rows(NamedTuple):
    """Rows and their masks, NumPy arrays."""

    batch: PretrainBatch
    masked: MaskedBatch
    origin: tuple[tuple[int, int], ...] = ()
    """Of rows that were unpacked: row and number, from 0, of each in the packed ones."""
    slots: tuple[np.ndarray, ...] = ()
    """Of each of them: the slots of the packed row that are its own."""


def packed_rows(task: Task, num_rows: int) -> Rows:
    """Masked rows of several sequences, with padding behind."""
    batch = synthetic_batch(task, num_rows)
    return Rows(batch, _masked(*mask_rows(task, batch)))


def unpacked(rows: Rows) -> Rows:
    """The same sequences and masks, each in a row of its own."""
    batch, masked = rows.batch, rows.masked
    origin = [
        (b, p)
        for b in range(len(batch.input_ids))
        for p in range(int(batch.sequence_ids[b].max()))
    ]
    shape = (len(origin), batch.input_ids.shape[1])
    ids, hidden, segments, sequences, positions = np.zeros((5, *shape), np.int32)
    num_slots = masked.positions.shape[1]
    places, labels = np.zeros((2, len(origin), num_slots), np.int32)
    weights = np.zeros((len(origin), num_slots), np.float32)
    slots = []
    for row, (b, p) in enumerate(origin):
        at = np.flatnonzero(batch.sequence_ids[b] == p + 1)
        to = slice(0, at.size)
        ids[row, to], hidden[row, to] = batch.input_ids[b, at], masked.input_ids[b, at]
        segments[row, to], sequences[row, to] = batch.segment_ids[b, at], 1
        positions[row, to] = batch.position_ids[b, at]
        mine = np.flatnonzero(
            (masked.weights[b] > 0) & np.isin(masked.positions[b], at)
        )
        places[row, : mine.size] = masked.positions[b, mine] - at[0]
        labels[row, : mine.size] = masked.labels[b, mine]
        weights[row, : mine.size] = 1.0
        slots.append(mine)
    at_BP = tuple(np.array(origin).T)
    alone = PretrainBatch(
        input_ids=ids,
        segment_ids=segments,
        sequence_ids=sequences,
        position_ids=positions,
        cls_positions=np.zeros((len(origin), 1), np.int32),
        nsp_labels=batch.nsp_labels[at_BP][:, None],
        nsp_weights=batch.nsp_weights[at_BP][:, None],
    )
    return Rows(
        alone,
        _masked(hidden, places, labels, weights),
        tuple(origin),
        tuple(slots),
    )


def changed(rows: Rows) -> Rows:
    """With other tokens in the first sequence of every row; masks stay where they are."""
    ids = rows.masked.input_ids
    other = (rows.batch.sequence_ids == 1) & (ids > SPECIAL.mask + 1)
    moved = np.where(other, ids - 1, ids).astype(np.int32)
    return rows._replace(masked=_masked(moved, *rows.masked[1:]))


def _masked(*arrays: Any) -> MaskedBatch:
    """Of NumPy arrays, which the model takes as it takes JAX's."""
    return MaskedBatch(*arrays)
