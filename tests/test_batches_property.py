"""Whole epochs of batches over random corpora: nothing lost, nothing twice, one order.

Every token of these corpora has an id of its own, its offset plus 5, so that a batch
tells which tokens of which document it holds.
"""

import collections
import math
from typing import NamedTuple

import numpy as np
import pytest
from decoded_rows import decode
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import assert_same, joined, rows_of_store

from bert_jax.batch import PretrainBatch
from bert_jax.config import DataConfig
from bert_jax.data.batches.pairs import make_pairs
from bert_jax.data.batches.rows import PretrainRows

LAYOUTS = st.sampled_from(["packed", "buckets", "padded"])
KINDS = st.sampled_from(["next_sentence", "sentence_order", "none"])
CORPORA = st.lists(
    st.lists(st.integers(1, 30), min_size=1, max_size=9), min_size=2, max_size=8
)
SEEDS = st.integers(0, 2**32 - 1)
FIRST_ID = 5


class Read(NamedTuple):
    """A pair as a batch shows it."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    label: int | None


class Corpus:
    """make_rows over one corpus, each time with nothing planned."""

    def __init__(self, store, special, seed, batch_size=8, **settings) -> None:
        self.store, self.special, self.seed = store, special, seed
        self.batch_size = batch_size
        self.cfg = DataConfig(**settings)
        self.rows = self.fresh()

    def fresh(self) -> PretrainRows:
        return rows_of_store(
            self.store,
            self.cfg,
            self.special,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def batch(self, step: int, rows: PretrainRows | None = None, **share):
        return (rows or self.rows).batch_of_step(
            step, batch_size=self.batch_size, **share
        )

    def epoch(self, number: int) -> list[PretrainBatch]:
        sizes = [self.rows.size(n) for n in range(number + 1)]
        if self.cfg.layout == "buckets":
            first = sum(size.num_batches for size in sizes[:-1])
            return [self.batch(first + n) for n in range(sizes[-1].num_batches)]
        first = sum(size.num_rows for size in sizes[:-1])
        return [self.rows.batch(first, sizes[-1].num_rows)]

    def read(self, batch: PretrainBatch) -> list[Read]:
        found = []
        for row in range(len(batch.input_ids)):
            for place, (a, *b) in enumerate(decode(batch, row, self.special)):
                assert batch.nsp_weights[row, place] == len(b)
                label = int(batch.nsp_labels[row, place]) if b else None
                found.append(Read(tuple(a), tuple(b[0]) if b else (), label))
        return found

    def read_epoch(self, number: int) -> list[Read]:
        return [pair for batch in self.epoch(number) for pair in self.read(batch)]

    def planned(self, number: int) -> list[Read]:
        plan = make_pairs(self.store, self.cfg, seed=self.seed, epoch=number)
        ids = self.store.tokens.tolist()
        columns = (
            *(plan.a_start, plan.a_length, plan.b_start, plan.b_length),
            *(plan.label, plan.has_label),
        )
        return [
            Read(
                tuple(ids[a : a + a_size]),
                tuple(ids[b : b + b_size]),
                int(label) if has_label else None,
            )
            for a, a_size, b, b_size, label, has_label in zip(*columns, strict=True)
        ]


@given(CORPORA, st.integers(16, 64), LAYOUTS, KINDS, SEEDS)
@settings(max_examples=25)
def test_an_epoch_holds_each_pair_once(
    make_store, special, documents, length, layout, kind, seed
):
    corpus = Corpus(
        make_store(documents),
        special,
        seed,
        sequence_length=length,
        layout=layout,
        pairs=kind,
        max_pairs_per_row=3,
    )
    for number in (0, 1):
        assert collections.Counter(corpus.read_epoch(number)) == collections.Counter(
            corpus.planned(number)
        )


def num_used_by_rule(documents: list[list[int]], length: int, kind: str) -> int:
    """Tokens that rows of `length` have room for, chunk by chunk."""
    if kind == "none":  # segments go on where the one before ended
        return sum(map(sum, documents))
    room = length - 3
    used = 0
    for document in documents:
        chunk: list[int] = []
        for number, size in enumerate(document):
            chunk.append(size)
            if sum(chunk) >= room or number + 1 == len(document):
                used += min(sum(chunk), room if len(chunk) > 1 else length - 2)
                chunk = []
    return used


@pytest.mark.parametrize("kind", ["sentence_order", "none"])
@given(CORPORA, st.integers(16, 64), LAYOUTS, SEEDS)
@settings(max_examples=20)
def test_no_token_is_lost_but_by_rule_and_none_comes_twice(
    make_store, special, kind, documents, length, layout, seed
):
    corpus = Corpus(
        make_store(documents),
        special,
        seed,
        sequence_length=length,
        layout=layout,
        pairs=kind,
        short_pair_rate=0.0,
    )
    pairs = corpus.read_epoch(0)
    tokens = [token for pair in pairs for token in pair.a + pair.b]
    assert len(set(tokens)) == len(tokens)
    assert len(tokens) == num_used_by_rule(documents, length, kind)
    # No hole within a segment: what is lost was at its ends.
    for part in (part for pair in pairs for part in (pair.a, pair.b) if part):
        assert part == tuple(range(part[0], part[0] + len(part)))


@given(CORPORA, LAYOUTS, KINDS, SEEDS)
@settings(max_examples=20)
def test_nothing_is_lost_of_documents_that_fit(
    make_store, special, documents, layout, kind, seed
):
    store = make_store(documents)
    corpus = Corpus(
        store,
        special,
        seed,
        sequence_length=2 * 9 * 30 + 3,
        layout=layout,
        pairs=kind,
        short_pair_rate=0.5,
    )
    seen = collections.Counter()
    for pair in corpus.read_epoch(0):
        seen.update(pair.a)
        # A random B is a guest from a document that is used up in its own pairs too.
        if not (kind == "next_sentence" and pair.label == 1):
            seen.update(pair.b)
    assert seen == collections.Counter(store.tokens.tolist())


@given(CORPORA, st.integers(16, 200), SEEDS)
@settings(max_examples=20)
def test_labels_say_where_b_comes_from(make_store, special, documents, length, seed):
    store = make_store(documents)
    ends = store.sentence_starts[store.document_starts][1:]

    def document_of(token: int) -> int:
        return int(np.searchsorted(ends, token - FIRST_ID, side="right"))

    settings = {"sequence_length": length, "short_pair_rate": 0.3}
    corpus = Corpus(store, special, seed, **settings)
    for pair in corpus.read_epoch(0):
        same = document_of(pair.a[0]) == document_of(pair.b[0])
        assert pair.label == (not same)
        assert same <= (pair.a[-1] < pair.b[0])
    corpus = Corpus(store, special, seed, pairs="sentence_order", **settings)
    for pair in corpus.read_epoch(0):
        if pair.b:
            assert document_of(pair.a[0]) == document_of(pair.b[0])
            assert pair.label == (pair.a[0] > pair.b[0])


@pytest.mark.parametrize("layout", ["packed", "buckets", "padded"])
@pytest.mark.parametrize("kind", ["next_sentence", "sentence_order"])
def test_labels_are_balanced(make_store, special, layout, kind):
    corpus = Corpus(
        make_store([[4, 4]] * 4_000),
        special,
        0,
        sequence_length=16,
        layout=layout,
        pairs=kind,
        short_pair_rate=0.0,
    )
    labels, weights = (
        np.concatenate([getattr(b, name).ravel() for b in corpus.epoch(0)])
        for name in ("nsp_labels", "nsp_weights")
    )
    labels = labels[weights > 0]
    # Half of the documents are one pair that follows, the others two random ones.
    expected = {"next_sentence": 2 / 3, "sentence_order": 1 / 2}[kind]
    # Five deviations of 4,000 coins; the number of pairs moves with them, but less.
    assert abs(labels.mean() - expected) < 5 * math.sqrt(0.25 / 4_000)
    halves = np.split(labels[: labels.size // 2 * 2], 2)
    difference = abs(halves[0].mean() - halves[1].mean())
    assert difference < 5 * math.sqrt(0.5 / halves[0].size), "not mixed"


@given(CORPORA, LAYOUTS, KINDS, SEEDS)
@settings(max_examples=8)
def test_a_run_can_be_resumed_at_every_step(
    make_store, special, documents, layout, kind, seed
):
    corpus = Corpus(
        make_store(documents),
        special,
        seed,
        batch_size=4,
        sequence_length=24,
        layout=layout,
        pairs=kind,
    )
    # Into the third epoch.
    sizes = [corpus.rows.size(n) for n in (0, 1)]
    steps = sum(x.num_batches for x in sizes) or sum(x.num_rows for x in sizes) // 4
    expected = [corpus.batch(step) for step in range(steps + 2)]
    for step in reversed(range(steps + 2)):
        # Backwards and from scratch: nothing is left of the steps before.
        assert_same(corpus.batch(step, corpus.fresh()), expected[step])


@given(CORPORA, LAYOUTS, KINDS, SEEDS)
@settings(max_examples=8)
def test_hosts_share_one_batch(make_store, special, documents, layout, kind, seed):
    corpus = Corpus(
        make_store(documents),
        special,
        seed,
        sequence_length=24,
        layout=layout,
        pairs=kind,
    )
    for step in range(4):
        expected = corpus.batch(step)
        for num_hosts in (2, 4, 8):
            parts = [
                corpus.batch(step, parts=(host,), num_parts=num_hosts)
                for host in range(num_hosts)
            ]
            assert_same(joined(parts), expected)
