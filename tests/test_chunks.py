"""The whole-array operations behind pairs, each against a loop."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import DataConfig
from bert_jax.data.batches import chunks
from bert_jax.data.batches.pairs import make_pairs

SEEDS = st.integers(0, 2**32 - 1)
CORPORA = st.lists(
    st.lists(st.integers(1, 90), min_size=1, max_size=30), min_size=1, max_size=9
)


@given(CORPORA, st.integers(1, 60))
@settings(max_examples=60)
def test_blocks_hold_every_document_once(make_store, documents, size):
    store = make_store(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_BLOCK_SENTENCES", size)
        found = list(chunks.blocks(store))
    assert sum(block.bounds.size - 1 for block in found) == len(documents)
    for block in found:
        mine = documents[block.first_document :][: block.bounds.size - 1]
        lengths = [n for document in mine for n in document]
        assert len(lengths) <= max(size, len(mine[0]))
        np.testing.assert_array_equal(np.diff(block.starts), lengths)
        np.testing.assert_array_equal(np.diff(block.bounds), [len(d) for d in mine])
        numbers = [n for n, document in enumerate(mine) for _ in document]
        np.testing.assert_array_equal(block.document_S, numbers)
        first = store.document_starts[block.first_document]
        assert block.starts[0] == store.sentence_starts[first]


@given(CORPORA, SEEDS)
@settings(max_examples=60)
def test_a_chunk_ends_where_a_loop_ends_it(make_store, documents, seed):
    (block,) = chunks.blocks(make_store(documents))
    targets = np.random.default_rng(seed).integers(1, 200, len(documents))
    expected = []
    for document, target in zip(documents, targets, strict=True):
        offset = len(expected)
        for first in range(len(document)):
            end, total = first, 0
            while end < len(document) and (end == first or total < target):
                total += document[end]
                end += 1
            expected.append(offset + end)
    np.testing.assert_array_equal(chunks.chunk_ends(block, targets), expected)


@given(CORPORA, SEEDS)
@settings(max_examples=60)
def test_sentences_are_visited_as_by_walking(make_store, documents, seed):
    (block,) = chunks.blocks(make_store(documents))
    rng = np.random.default_rng(seed)
    index = np.arange(block.document_S.size)
    end = block.bounds[1:][block.document_S]
    following = index + 1 + rng.integers(0, end - index)
    expected = []
    for first, last in zip(block.bounds[:-1], block.bounds[1:], strict=True):
        at = first
        while at < last:
            expected.append(at)
            at = following[at]
    np.testing.assert_array_equal(chunks.visited_sentences(block, following), expected)


@given(CORPORA, SEEDS)
@settings(max_examples=60)
def test_runs_end_where_a_loop_ends_them(make_store, documents, seed):
    store = make_store(documents)
    rng = np.random.default_rng(seed)
    sizes = np.diff(store.document_starts)
    document = rng.integers(0, sizes.size, 50)
    first = store.document_starts[document] + rng.integers(0, sizes[document])
    end = store.document_starts[document + 1]
    target = rng.integers(-20, 400, 50)
    expected = []
    for low, high, wanted in zip(first, end, target, strict=True):
        at = low + 1
        while (
            at < high
            and store.sentence_starts[at] - store.sentence_starts[low] < wanted
        ):
            at += 1
        expected.append(at)
    np.testing.assert_array_equal(chunks.run_ends(store, first, end, target), expected)


@pytest.mark.parametrize("trials", [1, 2, 63, 64, 65, 200])
def test_draws_are_binomial(trials):
    found = chunks.binomial_half(np.full(20_000, trials), np.random.default_rng(trials))
    for count in range(trials + 1):
        share = math.comb(trials, count) / 2**trials
        # Six deviations: 400 shares are compared here.
        error = abs((found == count).mean() - share)
        assert error <= 6 * math.sqrt(share / found.size) + 1e-12, count
    assert found.max() <= trials


def test_no_trials_give_zero():
    found = chunks.binomial_half(np.array([0, 3, 0, 100]), np.random.default_rng(0))
    assert found[0] == found[2] == 0
    assert chunks.binomial_half(np.zeros(0, int), np.random.default_rng(0)).size == 0


def test_integers_below_a_limit_are_uniform():
    limits = np.repeat([1, 2, 7], 30_000)
    found = chunks.random_below(limits, np.random.default_rng(0))
    for limit in (1, 2, 7):
        mine = found[limits == limit]
        assert set(mine) == set(range(limit))
        for value in range(limit):
            share = 1 / limit
            error = abs((mine == value).mean() - share)
            assert error <= 5 * math.sqrt(share * (1 - share) / mine.size)


def test_one_long_document_takes_few_operations(make_store, monkeypatch):
    # 30,000 pairs of it, one after the other: a loop over pairs would be 30,000 calls.
    store = make_store([[3]] * 5 + [[4] * 90_000] + [[3]] * 5)
    calls = []
    where = np.flatnonzero
    monkeypatch.setattr(np, "flatnonzero", lambda x: calls.append(1) or where(x))
    cfg = DataConfig(sequence_length=16, short_pair_rate=0.0)
    pairs = make_pairs(store, cfg, seed=0, epoch=0)
    assert len(pairs) > 20_000
    assert len(calls) < 100
