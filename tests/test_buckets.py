"""Buckets use every pair once, in the shortest rows that its batch allows."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_jax.config import DataConfig
from bert_jax.data.batches.buckets import Buckets, fill_buckets, rows_of

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def problems(draw):
    buckets = sorted(draw(st.sets(st.integers(8, 64), min_size=1, max_size=4)))
    lengths = draw(st.lists(st.integers(4, buckets[-1]), max_size=200))
    return lengths, buckets, draw(st.integers(1, 6))


def fill(lengths, buckets, batch_size, seed) -> Buckets:
    rng = np.random.default_rng(seed)
    return fill_buckets(np.array(lengths, np.int32), buckets, batch_size, rng)


def batches_of(found: Buckets) -> list[tuple[int, list[int], int]]:
    """(length, numbers of pairs, empty rows) of every batch."""
    result, row, place = [], 0, 0
    for size, length in zip(found.batch_sizes, found.batch_lengths, strict=True):
        sizes = found.row_sizes[row : row + size]
        count = int(sizes.sum())
        assert sizes.tolist() == [1] * count + [0] * (size - count)
        numbers = found.order[place : place + count].tolist()
        result.append((int(length), numbers, int(size) - count))
        row, place = row + size, place + count
    assert (row, place) == (found.row_sizes.size, found.order.size)
    return result


@given(problems(), SEEDS)
@settings(max_examples=150)
@example(([], [16], 4), 0)
@example(([16] * 8, [16, 32], 4), 0)
@example(([8] * 9, [8, 16], 4), 0)  # one goes up and is alone
def test_every_pair_has_one_row_that_holds_it(problem, seed):
    lengths, buckets, batch_size = problem
    batches = batches_of(fill(*problem, seed))
    numbers = [n for _, mine, _ in batches for n in mine]
    assert sorted(numbers) == list(range(len(lengths)))
    for length, mine, num_empty in batches:
        assert length in buckets
        assert all(lengths[n] <= length for n in mine)
        assert len(mine) + num_empty == batch_size * (buckets[-1] // length)
        assert mine
        assert num_empty == 0 or length == buckets[-1]
    assert sum(num_empty > 0 for _, _, num_empty in batches) <= 1


@given(problems(), SEEDS)
@settings(max_examples=100)
def test_only_what_fills_no_batch_goes_up(problem, seed):
    lengths, buckets, batch_size = problem
    batches = batches_of(fill(*problem, seed))
    left = 0
    for low, length in zip([0, *buckets], buckets, strict=False):
        mine = left + sum(low < n <= length for n in lengths)
        size = rows_of(length, buckets[-1], batch_size)
        count = -(-mine // size) if length == buckets[-1] else mine // size
        assert sum(kind == length for kind, _, _ in batches) == count
        left = mine - count * size


def test_batches_hold_as_many_tokens_of_every_length():
    assert [rows_of(n, 512, 16) for n in (64, 128, 256, 512)] == [128, 64, 32, 16]
    assert rows_of(384, 512, 16) == 16  # rather fewer tokens than more
    assert DataConfig(layout="buckets", sequence_length=512).buckets == (128, 256, 512)


def test_who_shares_a_batch_and_their_order_are_drawn():
    lengths = [8] * 400 + [16] * 400
    one, same, other = (batches_of(fill(lengths, [8, 16], 8, n)) for n in (1, 1, 2))
    assert one == same
    assert one != other
    kinds = [length for length, _, _ in one]
    # Of 25 and 50 batches: in order there would be one change.
    assert np.count_nonzero(np.diff(kinds)) > 10
    shorts = [set(mine) for length, mine, _ in one if length == 8]
    assert not any(set(range(n, n + 16)) in shorts for n in range(385))


def test_who_goes_up_is_drawn():
    # 17 of 8 tokens fill one batch of 16 rows: which one is left depends on the seed.
    left = set()
    for seed in range(60):
        batches = batches_of(fill([8] * 17, [8, 16], 8, seed))
        left.update(n for length, mine, _ in batches if length == 16 for n in mine)
    assert len(left) > 12
