"""Masking by the paper's rule: how many, which, and what takes their place."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import PretrainBatch
from bert_jax.config import MaskingConfig
from bert_jax.model.masking import mask_tokens

VOCAB = 61
LENGTH = 40


@pytest.fixture
def mask(special):
    """mask(batch, seed=0, cfg=MaskingConfig()) with NumPy results."""
    jitted = jax.jit(mask_tokens, static_argnums=(0, 2, 3))

    def run(batch: PretrainBatch, seed=0, cfg=MaskingConfig()):  # noqa: B008
        masked = jitted(cfg, batch, special, VOCAB, jax.random.key(seed))
        return jax.tree.map(np.asarray, masked)

    return run


def rows_of(ids) -> PretrainBatch:
    """One sequence a row; id 0 is padding."""
    ids = np.asarray(ids, np.int32)
    real = (ids > 0).astype(np.int32)
    positions = np.arange(ids.shape[1], dtype=np.int32) * real
    none = np.zeros((len(ids), 1), np.int32)
    return PretrainBatch(
        ids, 0 * real, real, positions, none, none, none.astype(np.float32)
    )


def equal_rows(num_rows: int, length: int = LENGTH, padding: int = 6) -> PretrainBatch:
    """[CLS] words [SEP] words [SEP] padding, words drawn anew for each row."""
    ids = np.random.default_rng(0).integers(5, VOCAB, (num_rows, length))
    ids[:, 0] = 2
    ids[:, [length // 2, length - padding - 1]] = 3
    ids[:, length - padding :] = 0
    return rows_of(ids)


def expect(count: float, trials: int, rate: float) -> None:
    """Within five standard deviations of a binomial."""
    assert abs(count - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate)), (
        count,
        trials * rate,
    )


def assert_consistent(batch: PretrainBatch, masked, special) -> None:
    """What must hold of every result, row by row."""
    for b, ids in enumerate(batch.input_ids):
        used = int(masked.weights[b].sum())
        weights = np.arange(masked.weights.shape[1]) < used
        np.testing.assert_array_equal(masked.weights[b], weights.astype(np.float32))
        positions = masked.positions[b, :used]
        assert (np.diff(positions) > 0).all(), "ascending, none twice"
        np.testing.assert_array_equal(masked.labels[b, :used], ids[positions])
        assert not masked.positions[b, used:].any()
        assert not masked.labels[b, used:].any()
        forbidden = {special.pad, special.cls, special.sep}
        assert forbidden.isdisjoint(ids[positions].tolist())
        assert (batch.sequence_ids[b, positions] > 0).all()
        untouched = np.setdiff1d(np.arange(ids.size), positions)
        np.testing.assert_array_equal(masked.input_ids[b, untouched], ids[untouched])
    assert masked.input_ids.min() >= 0
    assert masked.input_ids.max() < VOCAB
    assert masked.input_ids.dtype == masked.positions.dtype == np.int32
    assert masked.labels.dtype == np.int32
    assert masked.weights.dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.15, 0.4, 0.9])
def test_packed_rows_are_masked_consistently(mask, make_batch, special, rate, seed):
    batch = make_batch(rows=9, seed=seed)
    masked = mask(batch, seed, MaskingConfig(rate=rate))
    assert_consistent(batch, masked, special)
    for b in range(9):
        real = int((batch.sequence_ids[b] > 0).sum())
        free = int((batch.input_ids[b] > special.sep).sum())
        slots = max(1, round(rate * 24))
        expected = min(slots, max(1, round(rate * real)), free)
        assert masked.weights[b].sum() == expected


@pytest.mark.parametrize("length", [8, 128, 512])
def test_the_number_follows_the_real_tokens(mask, special, length):
    real = np.arange(3, length + 1)
    ids = np.where(np.arange(length) < real[:, None], 9, 0)
    ids[:, 0] = special.cls
    ids[np.arange(real.size), real - 1] = special.sep
    masked = mask(rows_of(ids))
    slots = max(1, round(0.15 * length))
    assert masked.positions.shape == (real.size, slots)
    expected = [min(slots, max(1, round(0.15 * n))) for n in real]
    np.testing.assert_array_equal(masked.weights.sum(1), expected)


def test_a_row_without_a_maskable_token_weighs_nothing(mask, special):
    ids = [[2, 3, 3, 0, 0, 0, 0, 0], [0] * 8, [2, 9, 3, 0, 0, 0, 0, 0]]
    batch = rows_of(ids)
    masked = mask(batch)
    np.testing.assert_array_equal(masked.weights.sum(1), [0, 0, 1])
    np.testing.assert_array_equal(masked.input_ids[:2], batch.input_ids[:2])
    assert_consistent(batch, masked, special)


def test_padding_is_told_by_its_sequence_and_by_its_id(mask, special):
    # A word without a sequence is padding, and [PAD] inside a sequence is no word.
    ids = np.array([[2, 9, 0, 9, 3, 9, 9, 9]] * 64, np.int32)
    sequences = np.array([[1, 1, 1, 1, 1, 0, 0, 0]] * 64, np.int32)
    batch = rows_of(ids)._replace(sequence_ids=sequences)
    masked = mask(batch, cfg=MaskingConfig(rate=0.9))
    np.testing.assert_array_equal(masked.weights.sum(1), 2)
    assert_consistent(batch, masked, special)


def test_80_10_10(mask, special):
    batch = equal_rows(4096)
    masked = mask(batch)
    assert (masked.weights == masked.weights[:1]).all()
    used = masked.weights > 0
    shown = np.take_along_axis(masked.input_ids, masked.positions, axis=1)[used]
    labels = masked.labels[used]
    total = labels.size
    assert total == 4096 * 5  # 15 % of 34
    # A random token can be [MASK] or the token itself, once in the vocabulary each.
    hidden, kept = shown == special.mask, shown == labels
    expect(hidden.sum(), total, 0.8 + 0.1 / VOCAB)
    expect(kept.sum(), total, 0.1 + 0.1 / VOCAB)
    expect((~hidden & ~kept).sum(), total, 0.1 * (1 - 2 / VOCAB))
    # Decided for each token alone: rows whose five tokens are all hidden.
    rows = (hidden.reshape(-1, 5)).all(1)
    expect(rows.sum(), rows.size, (0.8 + 0.1 / VOCAB) ** 5)
    # And whatever the slot: the first is treated like the last.
    for slot in hidden.reshape(-1, 5).T:
        expect(slot.sum(), slot.size, 0.8 + 0.1 / VOCAB)


def test_random_tokens_cover_the_whole_vocabulary_evenly(mask):
    cfg = MaskingConfig(mask_share=0.0, random_share=1.0)
    masked = mask(equal_rows(4096), cfg=cfg)
    shown = np.take_along_axis(masked.input_ids, masked.positions, axis=1)
    counts = np.bincount(shown[masked.weights > 0], minlength=VOCAB)
    assert counts.size == VOCAB
    for count in counts:
        expect(count, counts.sum(), 1 / VOCAB)


@pytest.mark.parametrize(
    ("cfg", "kept", "hidden"),
    [
        (MaskingConfig(mask_share=1.0, random_share=0.0), 0, 1),
        (MaskingConfig(mask_share=0.0, random_share=0.0), 1, 0),
    ],
    ids=["all hidden", "all kept"],
)
def test_the_shares_are_settings(mask, special, cfg, kept, hidden):
    masked = mask(equal_rows(8), cfg=cfg)
    shown = np.take_along_axis(masked.input_ids, masked.positions, axis=1)
    used = masked.weights > 0
    assert (shown[used] == masked.labels[used]).mean() == kept
    assert (shown[used] == special.mask).mean() == hidden


def test_every_maskable_position_is_chosen_equally_often(mask, special):
    batch = equal_rows(4096)
    masked = mask(batch)
    chosen = np.zeros((4096, LENGTH + 1))
    target = np.where(masked.weights > 0, masked.positions, LENGTH)
    np.put_along_axis(chosen, target, 1, axis=1)
    chosen = chosen[:, :LENGTH]
    free = np.flatnonzero(batch.input_ids[0] > special.sep)
    assert free.size == 31
    for count in chosen[:, free].sum(0):
        expect(count, 4096, 5 / 31)
    # Pairs of positions, too: five of thirty-one, without replacement.
    together = chosen[:, free].T @ chosen[:, free]
    for i in range(30):
        expect(together[i, i + 1], 4096, 5 * 4 / (31 * 30))


def test_masks_follow_their_key(mask):
    batch = equal_rows(64)
    first, again, other = mask(batch, 0), mask(batch, 0), mask(batch, 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.positions != other.positions).any(1).mean() > 0.9
    # Rows draw apart, even of the same text.
    same = jax.tree.map(lambda x: np.repeat(x[:1], 64, axis=0), batch)
    positions = mask(same, 0).positions
    assert len({tuple(row) for row in positions.tolist()}) > 32


def test_masking_is_the_same_outside_jit(special):
    batch, key = jax.tree.map(jnp.asarray, equal_rows(4)), jax.random.key(0)
    run = functools.partial(mask_tokens, MaskingConfig(), special=special)
    plain = run(batch=batch, vocab_size=VOCAB, key=key)
    jitted = jax.jit(lambda b, k: run(batch=b, vocab_size=VOCAB, key=k))(batch, key)
    jax.tree.map(np.testing.assert_array_equal, plain, jitted)
