"""Masking by the paper's rule: how many, which, and what takes their place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masked_rows import VOCAB, assert_consistent, expect, rows_of, shown_tokens

from bert_jax.batch import MaskVocabulary, PretrainBatch
from bert_jax.config import MaskingConfig, MeshConfig
from bert_jax.model.masking import mask_tokens
from bert_jax.train.mesh import make_mesh
from bert_jax.train.placement import to_devices

LENGTH = 40
UNITS = ("token", "word", "span")


def equal_rows(num_rows: int, length: int = LENGTH, padding: int = 6) -> PretrainBatch:
    """[CLS] words [SEP] words [SEP] padding, words drawn anew for each row."""
    ids = np.random.default_rng(0).integers(5, VOCAB, (num_rows, length))
    ids[:, 0] = 2
    ids[:, [length // 2, length - padding - 1]] = 3
    ids[:, length - padding :] = 0
    return rows_of(ids)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.15, 0.4, 0.9])
def test_packed_rows_are_masked_consistently(
    mask, make_batch, special, vocabulary, rate, seed
):
    batch = make_batch(rows=9, seed=seed)
    masked = mask(batch, seed, MaskingConfig(rate=rate))
    assert_consistent(batch, masked, vocabulary)
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


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_without_a_maskable_token_weighs_nothing(mask, vocabulary, unit):
    ids = [[2, 3, 3, 0, 0, 0, 0, 0], [0] * 8, [2, 10, 3, 0, 0, 0, 0, 0]]
    batch = rows_of(ids)
    masked = mask(batch, cfg=MaskingConfig(unit=unit))
    np.testing.assert_array_equal(masked.weights.sum(1), [0, 0, 1])
    np.testing.assert_array_equal(masked.input_ids[:2], batch.input_ids[:2])
    assert_consistent(batch, masked, vocabulary)


@pytest.mark.parametrize("unit", UNITS)
def test_slots_can_be_limited(mask, vocabulary, unit):
    batch = equal_rows(64)
    masked = mask(batch, cfg=MaskingConfig(rate=0.5, max_slots=3, unit=unit))
    assert masked.positions.shape == (64, 3)
    if unit == "token":
        assert masked.weights.all()
    assert masked.weights.sum() > 64 * 2
    assert_consistent(batch, masked, vocabulary)


def test_padding_is_told_by_its_sequence_and_by_its_id(mask, vocabulary):
    # A word without a sequence is padding, and [PAD] inside a sequence is no word.
    ids = np.array([[2, 9, 0, 9, 3, 9, 9, 9]] * 64, np.int32)
    sequences = np.array([[1, 1, 1, 1, 1, 0, 0, 0]] * 64, np.int32)
    batch = rows_of(ids)._replace(sequence_ids=sequences)
    masked = mask(batch, cfg=MaskingConfig(rate=0.9))
    np.testing.assert_array_equal(masked.weights.sum(1), 2)
    assert_consistent(batch, masked, vocabulary)


def test_80_10_10(mask, special):
    batch = equal_rows(4096)
    masked = mask(batch)
    assert (masked.weights == masked.weights[:1]).all()
    used = masked.weights > 0
    shown = shown_tokens(masked)[used]
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
    shown = shown_tokens(masked)
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
    shown = shown_tokens(masked)
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


@pytest.mark.parametrize("unit", UNITS)
def test_masks_follow_their_key(mask, unit):
    batch, cfg = equal_rows(64), MaskingConfig(unit=unit)
    first, again, other = mask(batch, 0, cfg), mask(batch, 0, cfg), mask(batch, 1, cfg)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.positions != other.positions).any(1).mean() > 0.9
    # Rows draw apart, even of the same text.
    same = jax.tree.map(lambda x: np.repeat(x[:1], 64, axis=0), batch)
    positions = mask(same, 0, cfg).positions
    assert len({tuple(row) for row in positions.tolist()}) > 32


# Runs are compared on the masks of evaluation, so these may never change.
@pytest.mark.parametrize(
    ("unit", "positions", "shown"),
    [
        ("token", [2, 5, 17, 21, 25, 0], [33, 44, 4, 4, 4, 2]),
        ("word", [5, 6, 17, 18, 19, 0], [7, 44, 4, 4, 4, 2]),
        ("span", [3, 4, 9, 10, 32, 0], [4, 4, 4, 4, 10, 2]),
    ],
)
def test_masks_of_a_key_stay_what_they_were(mask, unit, positions, shown):
    masked = mask(equal_rows(1), 20_181_011, MaskingConfig(unit=unit))
    assert masked.positions.tolist() == [positions]
    assert shown_tokens(masked).tolist() == [shown]


@pytest.mark.parametrize("unit", UNITS)
def test_masking_is_the_same_outside_jit_and_traced_once(vocabulary, unit):
    key = jax.random.key(0)
    run = functools.partial(mask_tokens, MaskingConfig(unit=unit))
    jitted = jax.jit(run, static_argnums=1)
    batch, other = (
        jax.tree.map(jnp.asarray, rows)
        for rows in (equal_rows(4), equal_rows(4, padding=9))
    )
    plain, traced = run(batch, vocabulary, key), jitted(batch, vocabulary, key)
    jax.tree.map(np.testing.assert_array_equal, plain, traced)
    jitted(other, vocabulary, jax.random.key(1))
    assert jitted._cache_size() == 1


@pytest.mark.parametrize("unit", UNITS)
def test_rows_split_over_devices_get_the_same_masks(mask, vocabulary, unit):
    batch, cfg = equal_rows(16), MaskingConfig(unit=unit, rate=0.3)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    placed = to_devices(mesh, batch)
    place = placed.input_ids.sharding
    assert place.shard_shape(batch.input_ids.shape) == (2, LENGTH)
    step = jax.jit(
        lambda batch: mask_tokens(cfg, batch, vocabulary, jax.random.key(3)),
        out_shardings=place,
    )
    program = step.lower(placed).compile()
    jax.tree.map(np.testing.assert_array_equal, program(placed), mask(batch, 3, cfg))
    # No device may draw for the rows of the others.
    assert " all-gather(" not in program.as_text()
    assert " all-to-all(" not in program.as_text()


def test_a_vocabulary_that_does_not_fit_is_refused(special):
    with pytest.raises(ValueError, match=r"starts_word is bool \[60\].*bool \[61\]"):
        MaskVocabulary(special, 61, np.ones(60, bool))
    with pytest.raises(ValueError, match=r"starts_word is int64 \[61\]"):
        MaskVocabulary(special, 61, np.ones(61, np.int64))
    with pytest.raises(ValueError, match=r"SpecialIds.mask=4 is outside \[0, 4\)"):
        MaskVocabulary(special, 4, np.ones(4, bool))
