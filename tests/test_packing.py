"""Packing keeps every pair and wastes little; rows decode back to their pairs."""

import numpy as np
import pytest
from decoded_rows import decode
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_jax.config import DataConfig
from bert_jax.data.batches.packing import assemble, pack
from bert_jax.data.batches.pairs import make_pairs

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


def packed(lengths, row_length, pairs_per_row, seed) -> list[list[int]]:
    """Numbers of the pairs of every row."""
    rng = np.random.default_rng(seed)
    order, sizes = pack(np.array(lengths, np.int32), row_length, pairs_per_row, rng)
    assert order.dtype == sizes.dtype == np.int64
    assert sizes.sum() == order.size
    return [x.tolist() for x in np.split(order, np.cumsum(sizes))[:-1]]


def assert_sound(lengths, row_length, pairs_per_row, seed) -> list[list[int]]:
    rows = packed(lengths, row_length, pairs_per_row, seed)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    for row in rows:
        assert 1 <= len(row) <= pairs_per_row
        assert sum(lengths[n] for n in row) <= row_length
    return rows


@given(problems(), SEEDS)
@settings(max_examples=150)
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
    one, same, other = (packed(lengths, 64, 4, seed) for seed in (1, 1, 2))
    assert one == same
    assert len(one) == len(other)
    assert sorted(one) != sorted(other)


def test_neither_rows_nor_pairs_stay_in_order():
    # Equal lengths: only the draw decides who sits with whom, and where.
    rows = np.array(packed([16] * 400, 64, 4, 0))
    assert rows.shape == (100, 4)
    for place in range(4):
        # Quarters in order would give 0 or 1; 0.25 +- 0.04 by chance.
        assert 0.05 < (rows[:, place] < 100).mean() < 0.45
    # Neighbours in number are none in a row: in order the mean would be 1.
    assert np.abs(np.diff(rows, axis=1)).mean() > 100
    # Kinds of rows are mixed: in order there would be two changes in 70 rows.
    lengths = np.repeat([64, 32, 16], 40)
    first = lengths[[row[0] for row in packed(lengths, 64, 4, 0)]]
    assert np.count_nonzero(np.diff(first)) > 20


# Rows of tokens.


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("kind", ["next_sentence", "sentence_order", "none"])
@given(
    documents=st.lists(
        st.lists(st.integers(1, 20), min_size=1, max_size=8), min_size=2, max_size=8
    ),
    seed=SEEDS,
)
@settings(max_examples=30)
def test_rows_decode_to_their_pairs(make_store, special, layout, kind, documents, seed):
    cfg = DataConfig(sequence_length=40, layout=layout, max_pairs_per_row=5, pairs=kind)
    # An id that no other token has, or padding could hide as [PAD] = 0.
    special = type(special)(pad=1, unk=0, cls=2, sep=3, mask=4)
    store = make_store(documents)
    pairs = make_pairs(store, cfg, seed=seed, epoch=0)
    rows = [[n] for n in range(len(pairs))]
    if layout == "packed":
        rows = packed(pairs.num_tokens(), 40, 5, seed)
    rows.insert(len(rows) // 2, [])  # and one of padding
    size = cfg.pairs_per_row
    order = np.array([n for row in rows for n in row])
    sizes = np.array([len(row) for row in rows])
    batch = assemble(store, pairs[order], sizes, 40, size, special)
    for name, array in zip(batch._fields, batch, strict=True):
        dtype = np.float32 if name == "nsp_weights" else np.int32
        width = 40 if name in batch._fields[:4] else size
        assert (array.dtype, array.shape) == (dtype, (len(rows), width)), name

    for row, numbers in enumerate(rows):
        expected = []
        for n in numbers:
            a, b = pairs.a_start[n], pairs.b_start[n]
            expected.append([list(range(a + 5, a + 5 + pairs.a_length[n]))])
            if pairs.b_length[n]:
                expected[-1].append(list(range(b + 5, b + 5 + pairs.b_length[n])))
        assert decode(batch, row, special) == expected
        spare = [0] * (size - len(numbers))
        labels = [int(pairs.label[n]) for n in numbers]
        assert batch.nsp_labels[row].tolist() == labels + spare
        weights = [float(len(parts) == 2) for parts in expected]
        assert batch.nsp_weights[row].tolist() == weights + spare
        assert batch.cls_positions[row, len(numbers) :].tolist() == spare
