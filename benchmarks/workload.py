"""What is trained to measure speed: a model, and synthetic rows of tokens.

All candidates work on the same rows, so that only the step is measured and nothing has
to be downloaded.

Shape letters: B rows, T tokens of a row, P sentence pairs of a row, M masked slots.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import MaskingConfig, ModelConfig
from bert_jax.data.batches.packing import pack
from bert_jax.family import model_config
from bert_jax.train.flops import Work

LEARNING_RATE = 1e-6
"""Too small to learn anything while a step is measured."""
MASKING = MaskingConfig()
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
_SEED = 0
# Sequences of MLPerf's corpus have 254 tokens on average, and about a quarter of them is
# cut at 512 (Krell et al. 2021, figure 1). The lengths of all others are uniform here.
_FULL_SHARE = 0.23
_MEAN_SHARE = 254 / 512
# A pair has two sentences and three special tokens.
_SHORTEST = 8
_LOSS_SLACK = 1.0  # nats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A model and the form of its rows."""

    size: str
    """A size of `bert_jax.family`, or "test": two layers of 32."""
    length: int
    """T."""
    packed: bool = False
    """True: rows hold several sequences, whose mean length at T=512 is MLPerf's. False:
    every row is one sequence without padding."""
    pairs_per_row: int = 8
    """P of packed rows, as in `DataConfig`."""
    vocab_size: int = 30_522

    @property
    def name(self) -> str:
        return f"{self.size}-{self.length}{'-packed' * self.packed}"

    @property
    def num_slots(self) -> int:
        """M."""
        return MASKING.num_slots(self.length)

    @property
    def pairs(self) -> int:
        return self.pairs_per_row if self.packed else 1

    def model(self) -> ModelConfig:
        """The architecture."""
        if self.size != "test":
            return model_config(self.size, vocab_size=self.vocab_size)
        return ModelConfig(
            vocab_size=self.vocab_size,
            num_layers=2,
            hidden_size=32,
            num_heads=2,
            mlp_size=128,
        )


def synthetic_batch(task: Task, rows: int) -> PretrainBatch:
    """Random tokens, the same for the same arguments.

    Returns:
        NumPy arrays with B = `rows`.
    """
    rng = np.random.default_rng(_SEED)
    length, pairs = task.length, task.pairs
    lengths_of_rows = (
        _packed_lengths(task, rows, rng) if task.packed else [[length]] * rows
    )
    ids = rng.integers(SPECIAL.mask + 1, task.vocab_size, (rows, length), np.int32)
    segments, sequences, positions = np.zeros((3, rows, length), np.int32)
    cls_positions, labels = np.zeros((2, rows, pairs), np.int32)
    weights = np.zeros((rows, pairs), np.float32)
    for b, lengths in enumerate(lengths_of_rows):
        start = 0
        for p, size in enumerate(lengths):
            at = slice(start, start + size)
            middle = size // 2
            ids[b, start], ids[b, [start + middle, start + size - 1]] = 2, 3
            segments[b, at] = np.arange(size) > middle
            sequences[b, at], positions[b, at] = p + 1, np.arange(size)
            cls_positions[b, p], weights[b, p] = start, 1.0
            start += size
        ids[b, start:] = SPECIAL.pad
    labels[weights > 0] = rng.integers(0, 2, int((weights > 0).sum()))
    return PretrainBatch(
        ids, segments, sequences, positions, cls_positions, labels, weights
    )


def _packed_lengths(task: Task, rows: int, rng: np.random.Generator) -> list[list[int]]:
    """Lengths of the sequences of each row.

    Many sequences are packed as the loader packs them. Of all groups of neighbouring
    rows, the one is taken whose mean length is nearest to that of all.
    """
    count = max(4_096, 8 * rows)
    mean = _MEAN_SHARE * task.length
    longest = int(2 * (mean - _FULL_SHARE * task.length) / (1 - _FULL_SHARE))
    lengths = rng.integers(_SHORTEST, longest - _SHORTEST + 1, count)
    lengths[rng.random(count) < _FULL_SHARE] = task.length
    order, sizes = pack(lengths, task.length, task.pairs_per_row, rng)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    before = np.concatenate([[0], np.cumsum(lengths[order])])[starts]
    means = (before[rows:] - before[:-rows]) / (starts[rows:] - starts[:-rows])
    first = int(np.abs(means - mean).argmin())
    rows_at = range(first, first + rows)
    return [lengths[order[starts[b] : starts[b + 1]]].tolist() for b in rows_at]


class MaskedRows(NamedTuple):
    """Masked rows as a peer gets them: the slots are drawn once."""

    input_ids: np.ndarray  # int32 [B, T], [MASK] in the slots
    positions: np.ndarray  # int32 [B, M], ascending
    labels: np.ndarray  # int32 [B, M]
    weights: np.ndarray  # float32 [B, M], 0 on slots that a row does not use


def mask_rows(task: Task, batch: PretrainBatch) -> MaskedRows:
    """Masks as many slots as our step does, which draws new ones at every step."""
    rng = np.random.default_rng(_SEED + 1)
    rows = len(batch.input_ids)
    ids = batch.input_ids.copy()
    positions, labels = np.zeros((2, rows, task.num_slots), np.int32)
    weights = np.zeros((rows, task.num_slots), np.float32)
    for b in range(rows):
        free = np.flatnonzero(batch.input_ids[b] > SPECIAL.mask)
        count = MASKING.num_slots(int((batch.sequence_ids[b] > 0).sum()))
        chosen = np.sort(rng.choice(free, count, replace=False))
        positions[b, :count], labels[b, :count] = chosen, ids[b, chosen]
        weights[b, :count] = 1.0
        ids[b, chosen] = SPECIAL.mask
    return MaskedRows(ids, positions, labels, weights)


def work_of(batch: PretrainBatch) -> Work:
    """The work of one step; padding is not counted."""
    lengths = [
        np.bincount(row[row > 0])[1:].astype(np.float64) for row in batch.sequence_ids
    ]
    return Work(
        tokens=float(sum(row.sum() for row in lengths)),
        attention_pairs=float(sum((row**2).sum() for row in lengths)),
        sequences=float(batch.nsp_weights.sum()),
        masked_slots=float(sum(MASKING.num_slots(int(row.sum())) for row in lengths)),
    )


def check_untrained(loss: float, vocab_size: int) -> None:
    """Makes sure that a step trains: at the start, its loss is that of guessing.

    Args:
        loss: of one of the first steps at a tiny learning rate, in nats.
        vocab_size: of the model.

    Raises:
        ValueError: the loss is another by more than a nat, or no number.
    """
    expected = math.log(vocab_size) + math.log(2)
    if not abs(loss - expected) < _LOSS_SLACK:
        raise ValueError(
            f"the loss is {loss:.3f} nats, but an untrained model has about "
            f"{expected:.3f}: the step does not train as it should"
        )
