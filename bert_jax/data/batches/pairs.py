"""The pairs of an epoch and their labels: a plan that is pure in (seed, epoch).

A pair is two ranges of the token stream: sentences of a document stand side by side, so
nothing is copied until a batch is assembled.

Shape suffixes: D documents of a block, S its sentences, C the chunks cut of them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data.batches.chunks import (
    Block,
    below,
    blocks,
    chunk_ends,
    collect,
    heads,
    reached,
)
from bert_jax.data.prepared.store import TokenStore

_PAIRS_STREAM = 1  # of random numbers, among those of one (seed, epoch)

Columns = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of one epoch, or single segments. Every field has one entry a pair."""

    a_start: np.ndarray  # int64, offset of the first token of A
    a_length: np.ndarray  # int32
    b_start: np.ndarray  # int64
    b_length: np.ndarray  # int32, 0 when there is no B
    label: np.ndarray  # bool, B comes from elsewhere, or A and B are swapped

    def __len__(self) -> int:
        return self.a_start.size

    def __getitem__(self, which: slice | np.ndarray) -> "Pairs":
        return Pairs(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))

    @property
    def has_label(self) -> np.ndarray:
        """bool: without a B there is nothing to tell."""
        return self.b_length > 0

    def num_tokens(self) -> np.ndarray:
        """Tokens of each pair with [CLS] and its one or two [SEP], int32."""
        return self.a_length + self.b_length + 2 + (self.b_length > 0)


def make_pairs(store: TokenStore, cfg: DataConfig, *, seed: int, epoch: int) -> Pairs:
    """Cuts every document into pairs, as BERT's data script does.

    Sentences are collected to the target length, which is that of a whole row but for
    `short_pair_rate` of the documents. What becomes of such a chunk:

    - `next_sentence`: A is a random number of its first sentences; B is the rest, or
      (half the time, and whenever there is one sentence only) a run of sentences from
      a random other document, labelled; the unused rest is put back.
    - `sentence_order`: A and B are its two parts, cut between random sentences; half
      the time they are swapped, labelled. One sentence stays single.
    - `none`: it stays single.

    What is too long loses tokens at random ends of its longer side.

    Returns:
        Pairs in the order of the documents.

    Raises:
        ValueError: next-sentence labels need two documents and there are fewer.

    Source: Devlin et al. 2018, section 3.1 (task 2) and google-research/bert,
    create_pretraining_data.py; Lan et al. 2020, section 3.1 (sentence order).
    """
    num_documents = store.document_starts.size - 1
    if cfg.pairs == "next_sentence" and num_documents < 2:
        raise ValueError(
            f"Next-sentence pairs need at least 2 documents; the split has "
            f"{num_documents}. Prepare more text or set data.pairs to sentence_order "
            "or none."
        )
    rng = np.random.default_rng((seed, epoch, _PAIRS_STREAM))
    room = cfg.sequence_length - 3  # of a pair; a single segment has one [SEP] less
    longest = room + (cfg.pairs == "none")
    short = rng.random(num_documents) < cfg.short_pair_rate
    short_target = rng.integers(2, longest, num_documents, endpoint=True)
    target = np.where(short, short_target, longest)
    cut = _CUTS[cfg.pairs]
    columns: list[list[np.ndarray]] = [[] for _ in dataclasses.fields(Pairs)]
    for block in blocks(store):
        last = block.first_document + block.bounds.size - 1
        target_D = target[block.first_document : last]
        for column, part in zip(
            columns, cut(store, block, target_D, room, rng), strict=True
        ):
            column.append(part)
    # Each column's parts are let go before the next is joined.
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
    # 1 ... sentences - 1, or 1 when there is but one.
    others_S = end_S - index_S - 1
    a_end_S = index_S + 1 + below(np.maximum(others_S, 1), rng)
    random_S = (others_S == 0) | (rng.random(end_S.size) < 0.5)
    at_C = reached(block, np.where(random_S, a_end_S, end_S))

    a_end_C, random_C = a_end_S[at_C], random_S[at_C]
    a_start, b_start = block.starts[at_C], block.starts[a_end_C]
    a_length, b_length = b_start - a_start, block.starts[end_S[at_C]] - b_start

    drawn = np.flatnonzero(random_C)
    document = block.document_S[at_C[drawn]]
    # Uniform over the other documents: skip over one's own number.
    bounds = np.asarray(store.document_starts)
    other = rng.integers(0, bounds.size - 2, drawn.size)
    other += other >= document + block.first_document
    first, end = bounds[other], bounds[other + 1]
    first += below(end - first, rng)
    end = collect(store, first, end, target_D[document] - a_length[drawn])
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
    at_C, end_C = _whole_chunks(block, target_D)
    a_end_C = at_C + 1 + below(np.maximum(end_C - at_C - 1, 1), rng)
    a_start, b_start = block.starts[at_C], block.starts[a_end_C]
    a_length, b_length = b_start - a_start, block.starts[end_C] - b_start
    swapped = (b_length > 0) & (rng.random(at_C.size) < 0.5)
    # Before the cut, so that no side of the label loses more.
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
    at_C, end_C = _whole_chunks(block, target_D)
    start = block.starts[at_C]
    length, none = block.starts[end_C] - start, np.zeros_like(start)
    return _truncated(start, length, none, none, none > 0, room, rng)


_CUTS: dict[str, Callable[..., Columns]] = {
    "next_sentence": _next_sentence,
    "sentence_order": _sentence_order,
    "none": _single_segments,
}


def _whole_chunks(block: Block, target_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First sentence and end of every chunk, when nothing is put back."""
    end_S = chunk_ends(block, target_D)
    at_C = reached(block, end_S)
    return at_C, end_S[at_C]


def _truncated(
    a_start: np.ndarray,
    a_length: np.ndarray,
    b_start: np.ndarray,
    b_length: np.ndarray,
    label: np.ndarray,
    room: int,
    rng: np.random.Generator,
) -> Columns:
    """Columns of `Pairs`, cut to `room` tokens, or one more where there is no B."""
    # Tokens go one by one from the longer side, B where both are equal; the sums of
    # that walk in closed form.
    excess = np.maximum(a_length + b_length - room - (b_length == 0), 0)
    gap = a_length - b_length
    level = np.minimum(np.abs(gap), excess)
    rest = excess - level
    a_cut = np.where(gap > 0, level, 0) + (rest >> 1)
    b_cut = excess - a_cut
    return (
        a_start + heads(a_cut, rng),
        (a_length - a_cut).astype(np.int32),
        b_start + heads(b_cut, rng),
        (b_length - b_cut).astype(np.int32),
        label,
    )
