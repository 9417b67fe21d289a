"""The pairs of an epoch and their labels, a function of (seed, epoch).

A pair is two ranges of the token stream. The sentences of a document follow each other
there, so no token is copied until a batch is assembled.

Shape suffixes: D documents of a block, S its sentences, C its chunks.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data.batches.chunks import (
    Block,
    binomial_half,
    blocks,
    chunk_ends,
    random_below,
    run_ends,
    visited_sentences,
)
from bert_jax.data.prepared.store import TokenStore

_PAIRS_STREAM = 1  # number of this stream of random numbers; `epochs` has another

Columns = tuple[np.ndarray, ...]


class TooFewDocumentsError(ValueError):
    """A split has too few documents for the pairs that are asked for."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs or single segments. Every field has one entry per pair."""

    a_start: np.ndarray  # int64, offset of the first token of A
    a_length: np.ndarray  # int32
    b_start: np.ndarray  # int64
    b_length: np.ndarray  # int32, 0 when there is no B
    label: np.ndarray  # bool, B is from another document, or A and B are swapped

    def __len__(self) -> int:
        return self.a_start.size

    def __getitem__(self, which: slice | np.ndarray) -> "Pairs":
        return Pairs(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))

    @property
    def has_label(self) -> np.ndarray:
        """bool [pairs]; a pair without B has no label."""
        return self.b_length > 0

    def num_tokens(self) -> np.ndarray:
        """int32 [pairs], tokens of each pair, with [CLS] and one or two [SEP]."""
        return self.a_length + self.b_length + 2 + (self.b_length > 0)


def make_pairs(store: TokenStore, cfg: DataConfig, *, seed: int, epoch: int) -> Pairs:
    """Cuts every document into pairs, as BERT's data script does.

    A chunk has a target length. It is the length of a whole row, but a random shorter
    one for `short_pair_rate` of the documents. For pairs, a chunk takes whole sentences
    until it has reached its target. `cfg.pairs` says what a chunk becomes:

    - `next_sentence`: A is a random number of the chunk's first sentences. In half of
      the cases, B is the rest of the chunk. In the others, and if the chunk has only
      one sentence, B is a run of sentences from a random other document, the label is
      true, and the unused rest of the chunk is put back.
    - `sentence_order`: the chunk is cut between two random sentences into A and B. In
      half of the cases they are swapped and the label is true. A chunk of one sentence
      becomes a single segment.
    - `none`: the chunk is a single segment. It ends at its target, inside a sentence too,
      or at the end of the document, so every token is in one segment of an epoch.

    A pair that is too long loses tokens from its longer side, each at a random end.

    Args:
        store: the tokens of the split.
        cfg: `pairs`, `sequence_length` and `short_pair_rate` are used.
        seed: seed of the run.
        epoch: number of the epoch.

    Returns:
        The pairs in the order of the documents.

    Raises:
        TooFewDocumentsError: next-sentence labels need two documents and there are
            fewer.

    Source: Devlin et al. 2018, section 3.1 (task 2) and google-research/bert,
    create_pretraining_data.py; Lan et al. 2020, section 3.1 (sentence order).
    """
    num_documents = store.document_starts.size - 1
    if cfg.pairs == "next_sentence" and num_documents < 2:
        raise TooFewDocumentsError(
            f"Next-sentence pairs need at least 2 documents; the split has "
            f"{num_documents}. Prepare more text or set data.pairs to sentence_order "
            "or none."
        )
    rng = np.random.default_rng((seed, epoch, _PAIRS_STREAM))
    room = cfg.sequence_length - 3  # tokens of a pair; a single segment has one more
    longest = room + (cfg.pairs == "none")
    short = rng.random(num_documents) < cfg.short_pair_rate
    short_target = rng.integers(2, longest, num_documents, endpoint=True)
    target = np.where(short, short_target, longest)
    cut = _CUTS[cfg.pairs]
    columns: list[list[np.ndarray]] = [[] for _ in dataclasses.fields(Pairs)]
    for block in blocks(store):
        last = block.first_document + block.bounds.size - 1
        target_D = target[block.first_document : last]
        for column, values in zip(
            columns, cut(store, block, target_D, room, rng), strict=True
        ):
            column.append(values)
    # Joined one by one, so that only one column is in memory twice.
    return Pairs(*(np.concatenate(columns.pop(0)) for _ in dataclasses.fields(Pairs)))


def _next_sentence(
    store: TokenStore,
    block: Block,
    target_D: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> Columns:
    end_S = chunk_ends(block, target_D)
    index_S = np.arange(end_S.size)
    # A gets 1 to (sentences - 1) sentences, or the only one.
    others_S = end_S - index_S - 1
    a_end_S = index_S + 1 + random_below(np.maximum(others_S, 1), rng)
    random_S = (others_S == 0) | (rng.random(end_S.size) < 0.5)
    at_C = visited_sentences(block, np.where(random_S, a_end_S, end_S))

    a_end_C, random_C = a_end_S[at_C], random_S[at_C]
    a_start, b_start = block.starts[at_C], block.starts[a_end_C]
    a_length, b_length = b_start - a_start, block.starts[end_S[at_C]] - b_start

    drawn = np.flatnonzero(random_C)
    document = block.document_S[at_C[drawn]]
    # Uniform over the other documents: numbers from the own one on are shifted by one.
    bounds = np.asarray(store.document_starts)
    other = rng.integers(0, bounds.size - 2, drawn.size)
    other += other >= document + block.first_document
    first, end = bounds[other], bounds[other + 1]
    first += random_below(end - first, rng)
    end = run_ends(store, first, end, target_D[document] - a_length[drawn])
    starts = np.asarray(store.sentence_starts)
    b_start[drawn] = starts[first]
    b_length[drawn] = starts[end] - b_start[drawn]
    return _truncated(a_start, a_length, b_start, b_length, random_C, room, rng)


def _sentence_order(
    store: TokenStore,
    block: Block,
    target_D: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> Columns:
    end_S = chunk_ends(block, target_D)
    at_C = visited_sentences(block, end_S)
    end_C = end_S[at_C]
    a_end_C = at_C + 1 + random_below(np.maximum(end_C - at_C - 1, 1), rng)
    a_start, b_start = block.starts[at_C], block.starts[a_end_C]
    a_length, b_length = b_start - a_start, block.starts[end_C] - b_start
    swapped = (b_length > 0) & (rng.random(at_C.size) < 0.5)
    # Swapped before tokens are removed, so that both labels lose equally many.
    a_start, b_start = np.where(swapped, (b_start, a_start), (a_start, b_start))
    a_length, b_length = np.where(swapped, (b_length, a_length), (a_length, b_length))
    return _truncated(a_start, a_length, b_start, b_length, swapped, room, rng)


def _single_segments(
    store: TokenStore,
    block: Block,
    target_D: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> Columns:
    bounds_D = block.starts[block.bounds]
    num_D = -(-np.diff(bounds_D) // target_D)
    document_C = np.repeat(np.arange(num_D.size), num_D)
    number_C = np.arange(document_C.size) - np.repeat(np.cumsum(num_D) - num_D, num_D)
    start = bounds_D[document_C] + number_C * target_D[document_C]
    length = np.minimum(target_D[document_C], bounds_D[document_C + 1] - start)
    none = np.zeros_like(start)
    return start, length.astype(np.int32), none, none.astype(np.int32), none > 0


_CUTS: dict[str, Callable[..., Columns]] = {
    "next_sentence": _next_sentence,
    "sentence_order": _sentence_order,
    "none": _single_segments,
}


def _truncated(
    a_start: np.ndarray,
    a_length: np.ndarray,
    b_start: np.ndarray,
    b_length: np.ndarray,
    label: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> Columns:
    """The columns of `Pairs`, cut to `room` tokens, or one more if there is no B."""
    # Tokens are removed one by one from the longer side, from B if both are equal.
    # This computes how many each side loses in the end.
    excess = np.maximum(a_length + b_length - room - (b_length == 0), 0)
    gap = a_length - b_length
    level = np.minimum(np.abs(gap), excess)
    rest = excess - level
    a_cut = np.where(gap > 0, level, 0) + (rest >> 1)
    b_cut = excess - a_cut
    return (
        a_start + binomial_half(a_cut, rng),
        (a_length - a_cut).astype(np.int32),
        b_start + binomial_half(b_cut, rng),
        (b_length - b_cut).astype(np.int32),
        label,
    )
