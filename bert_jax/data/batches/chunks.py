"""Cuts documents into chunks: runs of sentences that reach a target length.

Where a chunk ends depends on where it begins, and where the next one begins depends on
a random draw for this one. To work on whole arrays, draws are made for every sentence,
as if a chunk began there. Then the sentences at which chunks do begin are found by
following the chunks from the first sentence of each document.

Shape suffixes: D documents of a block, S sentences of a block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bert_jax.data.prepared.store import TokenStore

# Arrays of this size fit into the cache of a core.
_BLOCK_SENTENCES = 65_536
_WORD_BITS = 64


class Block(NamedTuple):
    """Some consecutive documents."""

    first_document: int
    document_S: np.ndarray  # int64, number of each sentence's document in the block
    bounds: np.ndarray  # int64 [D + 1], first sentence of each document in the block
    starts: np.ndarray  # int64 [S + 1], offsets in the stream of tokens


def blocks(store: TokenStore) -> Iterator[Block]:
    """Yields all documents of a store in blocks of at most 65,536 sentences.

    A document with more sentences is a block of its own.
    """
    document_starts = np.asarray(store.document_starts)
    sentence_starts = np.asarray(store.sentence_starts)
    first, num_documents = 0, document_starts.size - 1
    while first < num_documents:
        limit = document_starts[first] + _BLOCK_SENTENCES
        end = int(np.searchsorted(document_starts, limit, side="right")) - 1
        end = max(end, first + 1)
        bounds = document_starts[first : end + 1]
        low, high = int(bounds[0]), int(bounds[-1])
        yield Block(
            first_document=first,
            document_S=np.repeat(np.arange(end - first), np.diff(bounds)),
            bounds=bounds - low,
            starts=sentence_starts[low : high + 1],
        )
        first = end


def chunk_ends(block: Block, target_D: np.ndarray) -> np.ndarray:
    """For each sentence, where a chunk ends that begins with it.

    A chunk takes sentences until it has `target_D` tokens or the document ends; it has
    at least one sentence.

    Args:
        block: the documents.
        target_D: int64, tokens that a chunk of each document should have, at least 1.

    Returns:
        int64 [S], number in the block of the first sentence behind the chunk.
    """
    goal_S = block.starts[:-1] + target_D[block.document_S]
    # The goals mostly ascend, so the search reads memory that is in the cache.
    end_S = np.searchsorted(block.starts, goal_S)
    return np.minimum(end_S, block.bounds[1:][block.document_S], out=end_S)


def visited_sentences(block: Block, following_S: np.ndarray) -> np.ndarray:
    """The sentences that are visited by jumping through all documents.

    Args:
        block: the documents.
        following_S: int64, for each sentence the next one to visit, which is behind it
            and at most the end of its document.

    Returns:
        int64, ascending: the first sentence of every document, and all that are visited
        from there.
    """
    num_sentences = following_S.size
    # The place behind the block leads to itself.
    jump = np.append(following_S, num_sentences)
    seen = np.zeros(num_sentences + 1, bool)
    seen[block.bounds] = True
    found = np.flatnonzero(seen)
    while True:
        # `jump` makes 1, 2, 4, ... visits at once, so each turn finds all sentences
        # up to twice as many visits away.
        seen[jump[found]] = True
        before, found = found.size, np.flatnonzero(seen)
        if found.size == before:
            return found[:-1]
        jump = jump[jump]


def run_ends(
    store: TokenStore, first: np.ndarray, end: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Where runs of sentences end that begin at `first` and reach `target` tokens.

    A run has at least one sentence and ends at `end` at the latest.

    Args:
        store: the sentences.
        first: int64 [runs], number in the store of the first sentence of each run.
        end: int64 [runs], number of the first sentence that a run may not take.
        target: int64 [runs], tokens that a run should have.

    Returns:
        int64 [runs], number of the first sentence behind each run.
    """
    starts = np.asarray(store.sentence_starts)
    goal = starts[first] + target
    # No sentence is empty, so the end is at most `target` sentences away.
    low, high = first + 1, np.minimum(first + np.maximum(target, 1), end)
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        short = starts[middle] < goal
        low = np.where(short, np.minimum(middle + 1, high), low)
        high = np.where(short, high, middle)
    return low


def random_below(limit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uniform integer in [0, limit) for each entry, int64.

    Each is made of 53 random bits, so probabilities are exact to limit / 2**53.
    """
    return (rng.random(limit.size) * limit).astype(np.int64)


def binomial_half(trials: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw from the binomial distribution B(trials, 1/2) for each entry, int64."""
    result = np.zeros_like(trials)
    few = np.flatnonzero((trials > 0) & (trials <= _WORD_BITS))
    words = rng.integers(0, 2**_WORD_BITS, few.size, np.uint64)
    unused = (_WORD_BITS - trials[few]).astype(np.uint64)
    # The number of ones in random bits has this distribution and is faster to draw.
    result[few] = np.bitwise_count(words >> unused)
    many = np.flatnonzero(trials > _WORD_BITS)
    result[many] = rng.binomial(trials[many], 0.5)
    return result
