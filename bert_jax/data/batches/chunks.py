"""Documents cut into chunks, runs of sentences that reach a target length.

What a chunk is depends on where it begins, and where the next one begins on the draw
made for this one. So all draws are made for every sentence, as if a chunk began there,
and then the sentences where one does begin are found by following from the documents'
first: whole arrays at each operation, whatever the documents' lengths.

Shape suffixes: D documents of a block, S sentences of a block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bert_jax.data.prepared.store import TokenStore

# Arrays of so many entries stay in a core's own cache.
_BLOCK_SENTENCES = 65_536
_WORD_BITS = 64


class Block(NamedTuple):
    """Some documents that follow each other."""

    first_document: int
    first_sentence: int
    document_S: np.ndarray  # int64, each sentence's document, counted in the block
    bounds: np.ndarray  # int64 [D + 1], sentences, counted in the block
    starts: np.ndarray  # int64 [S + 1], offsets in the stream of tokens


def blocks(store: TokenStore) -> Iterator[Block]:
    """All documents of a store, in blocks of about 65,536 sentences.

    A longer document is a block of its own.
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
            first_sentence=low,
            document_S=np.repeat(np.arange(end - first), np.diff(bounds)),
            bounds=bounds - low,
            starts=sentence_starts[low : high + 1],
        )
        first = end


def chunk_ends(block: Block, target_D: np.ndarray) -> np.ndarray:
    """Where a chunk ends that begins with each sentence.

    Sentences are taken until there are `target_D` tokens of them, at least one and none
    of the next document.

    Args:
        target_D: int64, tokens wanted of a chunk of each document, at least 1.

    Returns:
        int64 [S], past the chunk's last sentence, counted in the block.
    """
    goal_S = block.starts[:-1] + target_D[block.document_S]
    # The keys ascend but for where the target changes: the search stays in the cache.
    end_S = np.searchsorted(block.starts, goal_S)
    return np.minimum(end_S, block.bounds[1:][block.document_S], out=end_S)


def reached(block: Block, following_S: np.ndarray) -> np.ndarray:
    """The sentences that are come upon on the way through all documents.

    Args:
        following_S: int64, for each sentence one behind it, at most the end of its
            document.

    Returns:
        int64, ascending: the first sentence of every document, and whatever follows.
    """
    num_sentences = following_S.size
    # Past the block it goes on for ever to the same place.
    jump = np.append(following_S, num_sentences)
    seen = np.zeros(num_sentences + 1, bool)
    seen[block.bounds] = True
    found = np.flatnonzero(seen)
    while True:
        # `jump` leads over 1, 2, 4, ... places: all of twice as long a way are found.
        seen[jump[found]] = True
        before, found = found.size, np.flatnonzero(seen)
        if found.size == before:
            return found[:-1]
        jump = jump[jump]


def collect(
    store: TokenStore, first: np.ndarray, end: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Past the last sentence of each run that reaches `target` tokens before `end`.

    At least one sentence is taken. All arrays have the same shape; `first` and `end`
    are sentences of the store, anywhere in it.
    """
    starts = np.asarray(store.sentence_starts)
    goal = starts[first] + target
    # No sentence is empty, so a search from `first` on is short and reads little.
    low, high = first + 1, np.minimum(first + np.maximum(target, 1), end)
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        short = starts[middle] < goal
        low = np.where(short, np.minimum(middle + 1, high), low)
        high = np.where(short, high, middle)
    return low


def below(limit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uniform integer in [0, limit) for each entry, int64.

    From 53 random bits each: probabilities are exact to limit / 2**53.
    """
    return (rng.random(limit.size) * limit).astype(np.int64)


def heads(tosses: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of so many fair coins show heads, for each entry, int64."""
    result = np.zeros_like(tosses)
    few = np.flatnonzero((tosses > 0) & (tosses <= _WORD_BITS))
    words = rng.integers(0, 2**_WORD_BITS, few.size, np.uint64)
    unused = (_WORD_BITS - tosses[few]).astype(np.uint64)
    # Counted bits are the same distribution, and far cheaper than to draw from it.
    result[few] = np.bitwise_count(words >> unused)
    many = np.flatnonzero(tosses > _WORD_BITS)
    result[many] = rng.binomial(tosses[many], 0.5)
    return result
