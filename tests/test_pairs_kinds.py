"""Pairs in sentence order and single segments, nothing put back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import LONGEST, SEEDS, inside, truncated

from bert_jax.config import DataConfig
from bert_jax.data.batches.pairs import Pairs, make_pairs

CORPORA = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=6
)


def chunks(documents: list[list[int]], target: int) -> list[list[int]]:
    """Bounds of the sentences of every chunk, as offsets of tokens."""
    found, offset = [], 0
    for document in documents:
        bounds = [offset]
        for number, length in enumerate(document):
            offset += length
            bounds.append(offset)
            if offset - bounds[0] >= target or number + 1 == len(document):
                found.append(bounds)
                bounds = [offset]
    return found


@given(CORPORA, st.integers(8, 120), SEEDS)
@settings(max_examples=80)
def test_every_chunk_is_a_pair_in_one_of_two_orders(
    make_store, documents, length, seed
):
    cfg = DataConfig(
        sequence_length=length, short_pair_rate=0.0, pairs="sentence_order"
    )
    pairs = make_pairs(make_store(documents), cfg, seed=seed, epoch=0)
    room = length - 3
    expected = chunks(documents, room)
    assert len(pairs) == len(expected)
    for n, bounds in enumerate(expected):
        a, b = int(pairs.a_start[n]), int(pairs.b_start[n])
        sizes = int(pairs.a_length[n]), int(pairs.b_length[n])
        if len(bounds) == 2:
            assert sizes == (min(bounds[1] - bounds[0], length - 2), 0)
            assert inside(a, sizes[0], *bounds)
            assert not pairs.label[n]
            assert not pairs.has_label[n]
            continue
        assert pairs.has_label[n]
        assert min(sizes) > 0
        parts = [((bounds[0], x), (x, bounds[-1])) for x in bounds[1:-1]]
        if pairs.label[n]:
            parts = [(second, first) for first, second in parts]
        assert any(
            inside(a, sizes[0], *one)
            and inside(b, sizes[1], *two)
            and sizes == truncated(one[1] - one[0], two[1] - two[0], room)
            for one, two in parts
        )


@given(CORPORA, SEEDS)
@settings(max_examples=60)
def test_every_sentence_is_used_once(make_store, documents, seed):
    # Rows are so long that nothing is cut, though some documents have a short target.
    store = make_store(documents)
    cfg = DataConfig(
        sequence_length=LONGEST + 3, short_pair_rate=0.9, pairs="sentence_order"
    )
    pairs = make_pairs(store, cfg, seed=seed, epoch=0)
    starts = np.concatenate([pairs.a_start, pairs.b_start[pairs.has_label]])
    lengths = np.concatenate([pairs.a_length, pairs.b_length[pairs.has_label]])
    order = np.argsort(starts)
    starts, lengths = starts[order], lengths[order]
    np.testing.assert_array_equal(starts, np.cumsum(lengths) - lengths)
    assert lengths.sum() == store.tokens.size
    bounds = store.sentence_starts[store.document_starts]
    assert np.isin(bounds[:-1], starts).all(), "a segment crosses documents"
    assert np.isin(starts, store.sentence_starts).all()


@given(CORPORA, st.integers(8, 60), SEEDS)
@settings(max_examples=60)
def test_single_segments_fill_their_row_and_lose_no_token(
    make_store, documents, length, seed
):
    cfg = DataConfig(sequence_length=length, short_pair_rate=0.0, pairs="none")
    pairs = make_pairs(make_store(documents), cfg, seed=seed, epoch=0)
    expected, start = [], 0
    for document in documents:
        end = start + sum(document)
        expected += [
            (n, min(length - 2, end - n)) for n in range(start, end, length - 2)
        ]
        start = end
    found = zip(pairs.a_start.tolist(), pairs.a_length.tolist(), strict=True)
    assert list(found) == expected
    assert not pairs.has_label.any()
    assert not pairs.label.any()
    np.testing.assert_array_equal(pairs.num_tokens(), pairs.a_length + 2)


@given(CORPORA, st.integers(8, 60), SEEDS)
@settings(max_examples=60)
def test_short_segments_lose_no_token_either(make_store, documents, length, seed):
    cfg = DataConfig(sequence_length=length, short_pair_rate=0.9, pairs="none")
    store = make_store(documents)
    pairs = make_pairs(store, cfg, seed=seed, epoch=0)
    ends = np.cumsum(pairs.a_length)
    np.testing.assert_array_equal(pairs.a_start, ends - pairs.a_length)
    assert ends[-1] == store.tokens.size
    assert pairs.a_length.max() <= length - 2
    document_ends = np.cumsum([sum(document) for document in documents])
    assert np.isin(document_ends, ends).all(), "a segment crosses documents"
    # All segments of a document but the last one have one length.
    document_C = np.searchsorted(document_ends, ends)
    same = document_C[1:] == document_C[:-1]
    assert (pairs.a_length[:-1] >= pairs.a_length[1:])[same].all()
    inner = same[1:] & same[:-1]
    assert (pairs.a_length[:-2] == pairs.a_length[1:-1])[inner].all()


def assert_share(hits: np.ndarray, expected: float) -> None:
    """Five standard deviations: one false alarm in two million."""
    error = abs(np.mean(hits) - expected)
    assert error < 5 * math.sqrt(expected * (1 - expected) / np.size(hits)), error


@pytest.fixture(scope="module")
def ordered(make_store) -> Pairs:
    """Of 20,000 documents of ten sentences of one token, all in one row."""
    cfg = DataConfig(sequence_length=13, short_pair_rate=0.25, pairs="sentence_order")
    return make_pairs(make_store([[1] * 10] * 20_000), cfg, seed=0, epoch=0)


def test_half_of_the_pairs_are_swapped(ordered):
    assert_share(ordered.label[ordered.has_label], 0.5)


def test_the_cut_is_uniform_and_swaps_do_not_depend_on_it(ordered):
    whole = ordered[ordered.a_length + ordered.b_length == 10]
    first = np.where(whole.label, whole.b_length, whole.a_length)
    for length in range(1, 10):
        assert_share(first == length, 1 / 9)
        assert_share(whole.label[first == length], 0.5)


def test_targets_of_short_documents_are_uniform(ordered):
    starts = np.minimum(
        ordered.a_start, np.where(ordered.has_label, ordered.b_start, 10**9)
    )
    first = ordered[starts % 10 == 0]
    assert len(first) == 20_000
    for target in range(2, 11):
        size = first.a_length + first.b_length
        assert_share(size == target, 0.25 / 9 + 0.75 * (target == 10))


def test_a_cut_takes_as_much_from_either_order(make_store):
    # 30 tokens for 20: the longer part loses all ten, whether it is A or B.
    cfg = DataConfig(sequence_length=23, short_pair_rate=0.0, pairs="sentence_order")
    pairs = make_pairs(make_store([[24, 6]] * 2_000), cfg, seed=0, epoch=0)
    # The first sentence reaches the target alone: every chunk is one sentence.
    assert not pairs.has_label.any()
    pairs = make_pairs(make_store([[6, 24]] * 2_000), cfg, seed=0, epoch=0)
    assert pairs.has_label.all()
    lengths = np.stack([pairs.a_length, pairs.b_length], axis=1)
    assert (lengths[pairs.label] == [14, 6]).all()
    assert (lengths[~pairs.label] == [6, 14]).all()
    longer = np.where(pairs.label, pairs.a_start, pairs.b_start)
    front = longer - (30 * np.arange(2_000) + 6)
    # A coin a token: mean 5 and variance 2.5 of the ten.
    assert abs(front.mean() - 5) < 5 * math.sqrt(2.5 / front.size)
    assert abs(front.var() / 2.5 - 1) < 5 * math.sqrt(2 / front.size)
