"""What is trained to measure speed: a model, and synthetic rows of tokens.

All candidates work on the same rows, so that only the step is measured and nothing has
to be downloaded.

Shape letters: B rows, T tokens of a row, P sentence pairs of a row, M masked slots.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import DropoutConfig, MaskingConfig, ModelConfig
from bert_jax.family import model_config, modernbert_config
from bert_jax.train.flops import Work

LEARNING_RATE = 1e-6
"""Too small to learn anything while a step is measured."""
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
_SEED = 0
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
    """True: every row holds two sequences that meet at a random place; MLPerf's have 254
    of 512 tokens on average (Krell et al. 2021). False: every row is one sequence. There
    is no padding either way."""
    vocab_size: int = 30_522
    modern: bool = False
    """Whether it is a ModernBERT: no sentence pairs, no dropout, 30 % masked."""

    @property
    def name(self) -> str:
        kind, form = "modernbert-" * self.modern, "-packed" * self.packed
        return f"{kind}{self.size}-{self.length}{form}"

    @property
    def title(self) -> str:
        return f"{'Modern' * self.modern}BERT-{self.size}"

    @property
    def masking(self) -> MaskingConfig:
        return MaskingConfig(rate=0.3) if self.modern else MaskingConfig()

    @property
    def dropout(self) -> DropoutConfig:
        rates = {"hidden": 0.0, "attention": 0.0} if self.modern else {}
        return DropoutConfig(**rates)

    @property
    def pairs(self) -> int:
        """P."""
        return 2 if self.packed else 1

    @property
    def untrained_loss(self) -> float:
        """Nats of a model that guesses."""
        return math.log(self.vocab_size) + (0.0 if self.modern else math.log(2))

    def model(self) -> ModelConfig:
        """The architecture."""
        if self.modern:
            return modernbert_config(self.size, vocab_size=self.vocab_size)
        if self.size != "test":
            return model_config(self.size, vocab_size=self.vocab_size)
        return ModelConfig(
            vocab_size=self.vocab_size,
            num_layers=2,
            hidden_size=32,
            num_heads=2,
            mlp_size=128,
        )


def modern_task(size: str) -> Task:
    """The first phase of a ModernBERT of `bert_jax.family`."""
    return Task(size=size, length=1_024, packed=True, vocab_size=50_368, modern=True)


def synthetic_batch(task: Task, rows: int) -> PretrainBatch:
    """Random tokens, the same for the same arguments.

    Returns:
        NumPy arrays with B = `rows`.
    """
    rng = np.random.default_rng(_SEED)
    length, shape = task.length, (rows, task.length)
    ids = rng.integers(SPECIAL.mask + 1, task.vocab_size, shape, np.int32)
    segments, sequences, positions = np.zeros((3, *shape), np.int32)
    cls_positions = np.zeros((rows, task.pairs), np.int32)
    for b in range(rows):
        bounds = [0, length]
        if task.packed:
            bounds.insert(1, int(rng.integers(_SHORTEST, length - _SHORTEST)))
        for p, (start, end) in enumerate(itertools.pairwise(bounds)):
            middle = (start + end) // 2
            ids[b, start] = SPECIAL.cls
            ids[b, [middle, end - 1]] = SPECIAL.sep
            segments[b, middle + 1 : end] = 1
            sequences[b, start:end] = p + 1
            positions[b, start:end] = np.arange(end - start)
            cls_positions[b, p] = start
    labels = rng.integers(0, 2, cls_positions.shape, np.int32)
    weights = np.full(cls_positions.shape, not task.modern, np.float32)
    return PretrainBatch(
        ids, segments, sequences, positions, cls_positions, labels, weights
    )


class MaskedRows(NamedTuple):
    """Masked rows as a peer gets them: the slots are drawn once."""

    input_ids: np.ndarray  # int32 [B, T], [MASK] in the slots
    positions: np.ndarray  # int32 [B, M], ascending
    labels: np.ndarray  # int32 [B, M]
    weights: np.ndarray  # float32 [B, M], all 1


def mask_rows(task: Task, batch: PretrainBatch) -> MaskedRows:
    """Masks as many slots as our step does, which draws new ones at every step."""
    rng = np.random.default_rng(_SEED + 1)
    rows, length = batch.input_ids.shape
    count = task.masking.num_slots(length)
    free = np.where(batch.input_ids > SPECIAL.mask, rng.random((rows, length)), 2.0)
    positions = np.sort(np.argsort(free)[:, :count]).astype(np.int32)
    ids = batch.input_ids.copy()
    labels = np.take_along_axis(ids, positions, 1)
    np.put_along_axis(ids, positions, SPECIAL.mask, 1)
    return MaskedRows(ids, positions, labels, np.ones(positions.shape, np.float32))


def work_of(task: Task, batch: PretrainBatch) -> Work:
    """The work of one step."""
    rows, length = batch.input_ids.shape
    lengths = np.array([np.bincount(row)[1:] for row in batch.sequence_ids], np.float64)
    return Work(
        tokens=float(lengths.sum()),
        attention_pairs=float((lengths**2).sum()),
        sequences=float(lengths.size),
        masked_slots=float(rows * task.masking.num_slots(length)),
    )


def check_untrained(loss: float, task: Task) -> None:
    """Makes sure that a step trains: at the start, its loss is that of guessing.

    Args:
        loss: of one of the first steps at a tiny learning rate, in nats.
        task: what is trained.

    Raises:
        ValueError: the loss is another by more than a nat, or no number.
    """
    expected = task.untrained_loss
    if not abs(loss - expected) < _LOSS_SLACK:
        raise ValueError(
            f"the loss is {loss:.3f} nats, but an untrained model has about "
            f"{expected:.3f}: the step does not train as it should"
        )
