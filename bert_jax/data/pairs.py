"""Sentence pairs with next-sentence labels, as a plan that is pure in (seed, epoch).

A pair is two ranges of the token stream: sentences of a document stand side by side, so
nothing is copied until a batch is assembled. All documents advance together, one pair
each per round, so that every operation runs over whole arrays.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from bert_jax.config import DataConfig

_PAIRS_STREAM = 1  # of random numbers, among those of one (seed, epoch)


class TokenStore(NamedTuple):
    """A tokenised corpus: one stream of tokens and the bounds within it."""

    tokens: np.ndarray  # uint16 or uint32 [number of tokens], possibly memory-mapped
    sentence_starts: np.ndarray  # int64 [sentences + 1], offsets of tokens
    document_starts: np.ndarray  # int64 [documents + 1], offsets of sentences


@dataclasses.dataclass(frozen=True)
class Pairs:
    """All pairs of one epoch. Every field has one entry a pair."""

    a_start: np.ndarray  # int64, offset of the first token of A
    a_length: np.ndarray  # int32
    b_start: np.ndarray  # int64
    b_length: np.ndarray  # int32, 0 when there is no B
    is_random: np.ndarray  # bool, B comes from another document

    def __len__(self) -> int:
        return self.a_start.size

    def num_tokens(self) -> np.ndarray:
        """Tokens of each pair with [CLS] and its one or two [SEP], int32."""
        return self.a_length + self.b_length + 2 + (self.b_length > 0)


def make_pairs(store: TokenStore, cfg: DataConfig, *, seed: int, epoch: int) -> Pairs:
    """Cuts every document into pairs, as BERT's data script does.

    Sentences are collected to the target length; A is a random number of the first of
    them; B is the rest, or (half the time, and whenever there is one sentence only) a
    run of sentences from a random other document, the unused rest being put back. What
    is too long loses tokens at random ends of its longer side.

    Raises:
        ValueError: next-sentence labels need two documents and there are fewer.

    Source: Devlin et al. 2018, section 3.1 (task 2) and google-research/bert,
    create_pretraining_data.py.
    """
    num_documents = store.document_starts.size - 1
    if cfg.next_sentence and num_documents < 2:
        raise ValueError(
            f"Next-sentence pairs need at least 2 documents; the split has "
            f"{num_documents}. Prepare more text or set data.next_sentence=False."
        )
    rng = np.random.default_rng((seed, epoch, _PAIRS_STREAM))
    room = cfg.sequence_length - (3 if cfg.next_sentence else 2)
    short = rng.random(num_documents) < cfg.short_pair_rate
    short_target = rng.integers(2, room, num_documents, endpoint=True)
    target = np.where(short, short_target, room)

    rounds = []
    document = np.arange(num_documents)
    position = store.document_starts[:-1].astype(np.int64)
    while document.size:
        if cfg.next_sentence:
            pairs, position = _one_round(store, document, position, target, room, rng)
        else:
            pairs, position = _one_segment(store, document, position, target, room, rng)
        rounds.append(pairs)
        unfinished = position < store.document_starts[document + 1]
        document, position = document[unfinished], position[unfinished]
    return Pairs(*(np.concatenate(columns) for columns in zip(*rounds, strict=True)))


def _collect(
    store: TokenStore, first: np.ndarray, end: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Past the last sentence of each run that reaches `target` tokens before `end`.

    At least one sentence is taken.
    """
    starts = store.sentence_starts
    reached = np.searchsorted(starts, starts[first] + target, side="left")
    return np.minimum(np.maximum(reached, first + 1), end)


def _one_segment(
    store: TokenStore,
    document: np.ndarray,
    position: np.ndarray,
    target: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    end = _collect(
        store, position, store.document_starts[document + 1], target[document]
    )
    start = store.sentence_starts[position]
    length = store.sentence_starts[end] - start
    cut = np.maximum(length - room, 0)
    from_front = rng.binomial(cut, 0.5)
    none = np.zeros_like(length)
    columns = (
        start + from_front,
        (length - cut).astype(np.int32),
        none,
        none.astype(np.int32),
        none.astype(bool),
    )
    return columns, end


def _one_round(
    store: TokenStore,
    document: np.ndarray,
    position: np.ndarray,
    target: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    starts, target = store.sentence_starts, target[document]
    document_end = store.document_starts[document + 1]
    end = _collect(store, position, document_end, target)
    num_sentences = end - position
    # 1 ... num_sentences - 1, or 1 when there is but one.
    split = 1 + rng.integers(0, np.maximum(num_sentences - 1, 1))
    a_end = position + split
    a_start, a_length = starts[position], starts[a_end] - starts[position]

    coin = rng.random(document.size) < 0.5
    is_random = (num_sentences == 1) | coin
    # Uniform over the other documents: skip over one's own number.
    num_documents = store.document_starts.size - 1
    other = rng.integers(0, num_documents - 1, document.size)
    other += other >= document
    other_first = store.document_starts[other]
    other_end = store.document_starts[other + 1]
    other_first = other_first + rng.integers(0, other_end - other_first)
    other_end = _collect(store, other_first, other_end, target - a_length)

    b_first = np.where(is_random, other_first, a_end)
    b_end = np.where(is_random, other_end, end)
    b_start, b_length = starts[b_first], starts[b_end] - starts[b_first]

    # Tokens go one by one from the longer side, B where both are equal; the sums of
    # that walk in closed form.
    excess = np.maximum(a_length + b_length - room, 0)
    gap = a_length - b_length
    level = np.minimum(np.abs(gap), excess)
    rest = excess - level
    a_cut = np.where(gap > 0, level, 0) + rest // 2
    b_cut = np.where(gap > 0, 0, level) + rest - rest // 2
    a_front, b_front = rng.binomial(a_cut, 0.5), rng.binomial(b_cut, 0.5)
    columns = (
        a_start + a_front,
        (a_length - a_cut).astype(np.int32),
        b_start + b_front,
        (b_length - b_cut).astype(np.int32),
        is_random,
    )
    return columns, np.where(is_random, a_end, end)
