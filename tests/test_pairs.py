"""Pairs against the rules of BERT's own loop, which is spelled out here once more.

`make_pairs` draws in another order than a loop would, so the two cannot be compared
pair by pair. Instead `could_come_from_bert` asks of every plan whether some run of the
loop makes it, and shares of first pairs are compared with the loop's probabilities.
"""

import bisect
import collections
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import DataConfig
from bert_jax.data.batches.pairs import Pairs, make_pairs
from bert_jax.data.prepared.store import TokenStore

CORPORA = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=2, max_size=6
)
SEEDS = st.integers(0, 2**32 - 1)
LONGEST = 12 * 40  # tokens of a document of CORPORA


def rows_of(pairs: Pairs) -> list[tuple[int, int, int, int, bool]]:
    columns = (getattr(pairs, f.name).tolist() for f in dataclasses.fields(pairs))
    return list(zip(*columns, strict=True))


def truncated(a: int, b: int, room: int) -> tuple[int, int]:
    """Lengths after the loop of google-research/bert, truncate_seq_pair."""
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


def inside(start: int, length: int, low: int, high: int) -> bool:
    return low <= start and start + length <= high


def collected(lengths: list[int], first: int, target: int) -> int:
    """Past the last sentence of the run from `first` that reaches `target`."""
    end, total = first, 0
    while end < len(lengths) and (end == first or total < target):
        total += lengths[end]
        end += 1
    return end


def could_come_from_bert(
    documents: list[list[int]],
    pairs: list[tuple[int, int, int, int, bool]],
    number: int,
    target: int,
    room: int,
) -> bool:
    """Whether the loop, on document `number`, can make just these pairs in order."""
    starts, offset = [], 0
    for document in documents:
        starts.append([offset + sum(document[:k]) for k in range(len(document) + 1)])
        offset += sum(document)
    mine, at = documents[number], starts[number]
    positions = {0}
    for a_start, a_length, b_start, b_length, is_random in pairs:
        following = set()
        for position in positions - {len(mine)}:
            end = collected(mine, position, target)
            count = end - position
            for a_end in range(position + 1, position + max(count - 1, 1) + 1):
                a_whole = at[a_end] - at[position]
                if not inside(a_start, a_length, at[position], at[a_end]):
                    continue
                if is_random:
                    runs = [
                        (whole[first], whole[collected(other, first, target - a_whole)])
                        for k, (other, whole) in enumerate(
                            zip(documents, starts, strict=True)
                        )
                        if k != number
                        for first in range(len(other))
                    ]
                else:
                    runs = [(at[a_end], at[end])] if count > 1 else []
                if any(
                    inside(b_start, b_length, low, high)
                    and (a_length, b_length) == truncated(a_whole, high - low, room)
                    for low, high in runs
                ):
                    following.add(a_end if is_random else end)
        positions = following
    return len(mine) in positions


def assert_bert(documents, store: TokenStore, cfg: DataConfig, seed: int) -> None:
    room = cfg.sequence_length - 3
    by_document = collections.defaultdict(list)
    token_bounds = store.sentence_starts[store.document_starts].tolist()
    for pair in rows_of(make_pairs(store, cfg, seed=seed, epoch=0)):
        assert pair[1] >= 1
        assert pair[3] >= 1
        assert pair[1] + pair[3] <= room
        by_document[bisect.bisect_right(token_bounds, pair[0]) - 1].append(pair)
    targets = range(2, room + 1) if cfg.short_pair_rate else [room]
    for number in range(len(documents)):
        pairs = by_document[number]
        assert any(
            could_come_from_bert(documents, pairs, number, target, room)
            for target in reversed(targets)
        ), (documents, number, pairs)


@given(CORPORA, st.integers(8, 200), SEEDS)
@settings(max_examples=60)
def test_every_plan_is_one_that_bert_could_make(make_store, documents, length, seed):
    cfg = DataConfig(sequence_length=length, short_pair_rate=0.0)
    assert_bert(documents, make_store(documents), cfg, seed)


@given(CORPORA, st.integers(8, 60), SEEDS)
@settings(max_examples=20)
def test_short_documents_keep_one_target(make_store, documents, length, seed):
    cfg = DataConfig(sequence_length=length, short_pair_rate=0.9)
    assert_bert(documents, make_store(documents), cfg, seed)


@given(CORPORA, SEEDS)
@settings(max_examples=60)
def test_unused_sentences_are_put_back(make_store, documents, seed):
    # Nothing is cut in such rows, so A and a B that follows must tile every document.
    store = make_store(documents)
    cfg = DataConfig(sequence_length=2 * LONGEST + 3, short_pair_rate=0.5)
    seen = np.zeros(store.tokens.size, int)
    for a_start, a_length, b_start, b_length, is_random in rows_of(
        make_pairs(store, cfg, seed=seed, epoch=0)
    ):
        seen[a_start : a_start + a_length] += 1
        if not is_random:
            assert b_start == a_start + a_length
            seen[b_start : b_start + b_length] += 1
    assert (seen == 1).all()


# Shares. The first pairs of all documents are independent of each other.


def assert_share(hits: np.ndarray, expected: float) -> None:
    """Five standard deviations: one false alarm in two million."""
    error = abs(np.mean(hits) - expected)
    assert error < 5 * math.sqrt(expected * (1 - expected) / np.size(hits)), error


@pytest.fixture(scope="module")
def first_pairs(make_store):
    """Of 20,000 documents of ten sentences of one token, cut at eight tokens."""
    store = make_store([[1] * 10] * 20_000)
    cfg = DataConfig(sequence_length=11, short_pair_rate=0.25)
    pairs = make_pairs(store, cfg, seed=0, epoch=0)
    first = pairs[pairs.a_start % 10 == 0]  # nothing is cut off the first sentence
    np.testing.assert_array_equal(first.a_start, 10 * np.arange(20_000))
    return first


def test_half_of_the_pairs_are_random(first_pairs):
    assert_share(first_pairs.label, 0.5)


def test_some_documents_are_cut_short(first_pairs):
    # Sentences of one token reach every target exactly.
    total = (first_pairs.a_length + first_pairs.b_length)[~first_pairs.label]
    for target in range(2, 9):
        assert_share(total == target, 0.25 / 7 + 0.75 * (target == 8))


def test_the_split_is_uniform(first_pairs):
    a = first_pairs.a_length[
        ~first_pairs.label & (first_pairs.a_length + first_pairs.b_length == 8)
    ]
    for length in range(1, 8):
        assert_share(a == length, 1 / 7)


def test_random_sentences_come_from_anywhere_else(first_pairs):
    random = first_pairs.label
    other = first_pairs.b_start[random] // 10
    distance = (other - np.flatnonzero(random)) % 20_000
    assert (distance > 0).all()
    for part in range(10):
        assert_share((distance - 1) * 10 // 19_999 == part, 0.1)
        assert_share(first_pairs.b_start[random] % 10 == part, 0.1)


def test_cuts_fall_on_both_ends(make_store):
    # One sentence of 8 and a B of 100: all of B's cut is spread over its two ends.
    store = make_store([[8, 100]] * 4_000)
    cfg = DataConfig(sequence_length=31, short_pair_rate=0.0)
    pairs = make_pairs(store, cfg, seed=0, epoch=0)
    follows = ~pairs.label
    front = pairs.b_start[follows] - pairs.a_start[follows] - 8
    assert set(pairs.a_length[follows]) == {8}
    assert set(pairs.b_length[follows]) == {20}
    # A coin a token: mean 40 and variance 20 of the 80.
    assert abs(front.mean() - 40) < 5 * math.sqrt(20 / front.size)
    assert abs(front.var() / 20 - 1) < 5 * math.sqrt(2 / front.size)


def test_one_sentence_is_always_followed_by_a_random_one(make_store):
    pairs = make_pairs(make_store([[3]] * 50), DataConfig(), seed=0, epoch=0)
    assert len(pairs) == 50
    assert pairs.label.all()


def test_a_plan_is_a_function_of_seed_and_epoch(make_store):
    store = make_store([[3, 4, 5, 6] * 5] * 10)
    plans = [
        rows_of(make_pairs(store, DataConfig(), seed=seed, epoch=epoch))
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]
    assert plans[2] != plans[3]


def test_one_document_has_no_other_to_draw_from(make_store):
    store = make_store([[3, 4, 5]])
    with pytest.raises(ValueError, match=r"at least 2 documents.* 1\. .*data\.pairs"):
        make_pairs(store, DataConfig(), seed=0, epoch=0)
    for kind in ("sentence_order", "none"):
        pairs = make_pairs(store, DataConfig(pairs=kind), seed=0, epoch=0)
        assert (pairs.a_length + pairs.b_length).sum() == 12
