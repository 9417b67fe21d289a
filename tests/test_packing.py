"""Packing keeps every pair and wastes little; rows decode back to their pairs."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_jax.config import DataConfig
from bert_jax.data.packing import NO_PAIR, assemble, pack
from bert_jax.data.pairs import make_pairs

SEEDS = st.integers(0, 2**32 - 1)


def first_fit_decreasing(lengths, row_length: int, pairs_per_row: int) -> int:
    """Rows that the textbook's way needs."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        for row in rows:
            if len(row) < pairs_per_row and sum(row) + length <= row_length:
                row.append(length)
                break
        else:
            rows.append([length])
    return len(rows)


@st.composite
def problems(draw):
    row_length = draw(st.integers(8, 96))
    lengths = draw(st.lists(st.integers(1, row_length), max_size=250))
    return lengths, row_length, draw(st.integers(1, 9))


def assert_sound(lengths, row_length, pairs_per_row, seed) -> np.ndarray:
    lengths = np.array(lengths, np.int32)
    rows = pack(lengths, row_length, pairs_per_row, np.random.default_rng(seed))
    assert rows.dtype == np.int32
    assert rows.shape[1] <= pairs_per_row
    used = rows[rows != NO_PAIR]
    np.testing.assert_array_equal(np.sort(used), np.arange(lengths.size))
    sums = np.where(rows == NO_PAIR, 0, np.append(lengths, 0)[rows]).sum(1)
    assert (sums <= row_length).all()
    assert (sums > 0).all(), "an empty row"
    return rows


@given(problems(), SEEDS)
@settings(max_examples=150, deadline=None)
@example(([], 16, 4), 0)
@example(([16], 16, 4), 0)
@example(([1] * 250, 96, 3), 0)
@example(([60, 36] * 50, 96, 4), 0)  # gaps that fit exactly
def test_every_pair_has_one_place_and_rows_are_dense(problem, seed):
    rows = assert_sound(*problem, seed)
    assert len(rows) <= first_fit_decreasing(*problem) * 1.02 + 1


def test_many_pairs_are_packed_as_densely_as_first_fit_does():
    rng = np.random.default_rng(0)
    # As real text has it: most pairs are full, the others of any length.
    lengths = np.where(rng.random(3_000) < 0.3, 128, rng.integers(5, 129, 3_000))
    rows = assert_sound(lengths.tolist(), 128, 8, 0)
    assert len(rows) <= first_fit_decreasing(lengths.tolist(), 128, 8) * 1.005


def test_packing_follows_its_generator():
    lengths = np.random.default_rng(0).integers(5, 65, 300)
    one, same, other = (
        pack(lengths, 64, 4, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert one.shape == other.shape
    assert (one != other).any()


def test_neither_rows_nor_pairs_stay_in_order():
    # Equal lengths: only the draw decides who sits with whom, and where.
    rows = pack(np.full(400, 16), 64, 4, np.random.default_rng(0))
    assert rows.shape == (100, 4)
    for place in range(4):
        # Quarters in order would give 0 or 1; 0.25 +- 0.04 by chance.
        assert 0.05 < (rows[:, place] < 100).mean() < 0.45
    # Kinds of rows are mixed: in order there would be two changes in 70 rows.
    lengths = np.repeat([64, 32, 16], 40)
    first = lengths[pack(lengths, 64, 4, np.random.default_rng(0))[:, 0]]
    assert np.count_nonzero(np.diff(first)) > 20


# Rows of tokens.


def decode(batch, row, special):
    """[(pair's A, pair's B, place)] by walking over the row's tokens one by one."""
    found = []
    ids = batch.input_ids[row].tolist()
    at = 0
    while at < len(ids) and batch.sequence_ids[row, at]:
        start, place = at, len(found)
        assert ids[at] == special.cls
        assert batch.cls_positions[row, place] == start
        parts, part = [], []
        while at < len(ids) and batch.sequence_ids[row, at] == place + 1:
            assert batch.position_ids[row, at] == at - start
            assert batch.segment_ids[row, at] == len(parts)
            if ids[at] == special.sep:
                parts.append(part)
                part = []
            elif at > start:
                part.append(ids[at])
            at += 1
        assert part == [], "no [SEP] at the end"
        found.append(parts)
    for name in ("sequence_ids", "position_ids", "segment_ids"):
        assert not getattr(batch, name)[row, at:].any(), name
    assert (batch.input_ids[row, at:] == special.pad).all()
    return found


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("next_sentence", [True, False])
@given(
    documents=st.lists(
        st.lists(st.integers(1, 20), min_size=1, max_size=8), min_size=2, max_size=8
    ),
    seed=SEEDS,
)
@settings(max_examples=40, deadline=None)
def test_rows_decode_to_their_pairs(
    make_store, special, packing, next_sentence, documents, seed
):
    cfg = DataConfig(
        sequence_length=40,
        packing=packing,
        max_pairs_per_row=5,
        next_sentence=next_sentence,
    )
    # An id that no other token has, or padding could hide as [PAD] = 0.
    special = type(special)(pad=1, unk=0, cls=2, sep=3, mask=4)
    store = make_store(documents)
    pairs = make_pairs(store, cfg, seed=seed, epoch=0)
    if packing:
        rows = pack(pairs.num_tokens(), 40, 5, np.random.default_rng(seed))
    else:
        rows = np.arange(len(pairs))[:, None]
    rows = np.concatenate([rows, np.full_like(rows[:1], NO_PAIR)])  # and one of padding
    size = cfg.pairs_per_row
    batch = assemble(store, pairs, rows, 40, size, special, next_sentence=next_sentence)
    for name, array in zip(batch._fields, batch, strict=True):
        kind = np.float32 if name == "nsp_weights" else np.int32
        width = 40 if name in batch._fields[:4] else size
        assert (array.dtype, array.shape) == (kind, (len(rows), width)), name

    for row, numbers in enumerate(rows):
        numbers = [n for n in numbers if n != NO_PAIR]
        expected = []
        for n in numbers:
            a, b = pairs.a_start[n], pairs.b_start[n]
            expected.append([list(range(a + 5, a + 5 + pairs.a_length[n]))])
            if next_sentence:
                expected[-1].append(list(range(b + 5, b + 5 + pairs.b_length[n])))
        assert decode(batch, row, special) == expected
        spare = [0] * (size - len(numbers))
        labels = [int(pairs.is_random[n]) for n in numbers]
        assert batch.nsp_labels[row].tolist() == labels + spare
        weights = [float(next_sentence)] * len(numbers)
        assert batch.nsp_weights[row].tolist() == weights + spare
        assert batch.cls_positions[row, len(numbers) :].tolist() == spare
