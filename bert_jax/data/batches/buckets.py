"""Puts pairs into rows of a few fixed lengths: one pair per row, one length per batch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data.batches.packing import ranges


class Buckets(NamedTuple):
    """The rows and batches of an epoch."""

    order: np.ndarray  # int64 [pairs], numbers of the pairs, row after row
    row_sizes: np.ndarray  # int64 [rows], 1, or 0 for an empty row that fills a batch
    batch_sizes: np.ndarray  # int64 [batches], rows of each batch
    batch_lengths: np.ndarray  # int32 [batches], tokens of each of its rows


def rows_of(length: int, longest: int, batch_size: int) -> int:
    """Rows of `length` in a batch that holds `batch_size * longest` tokens at most."""
    return batch_size * (longest // length)


def fill_buckets(
    lengths: np.ndarray,
    bucket_lengths: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
) -> Buckets:
    """Puts every pair into a batch of the shortest rows that can hold it.

    Pairs that do not fill a batch go to the next longer bucket. The last batch of the
    longest bucket is filled with empty rows.

    Args:
        lengths: int [pairs], tokens of each pair; none is longer than the last bucket.
        bucket_lengths: lengths of rows, ascending.
        batch_size: rows of a batch of the longest rows; other batches hold as many
            tokens, or a few less.
        rng: decides which pairs share a batch or go to a longer bucket, and the order
            of the batches.
    """
    longest = bucket_lengths[-1]
    bucket_of = np.searchsorted(np.asarray(bucket_lengths), lengths)
    rows, sizes = [], []
    left = np.zeros(0, np.int64)
    for number, length in enumerate(bucket_lengths):
        mine = np.concatenate([left, np.flatnonzero(bucket_of == number)])
        rng.shuffle(mine)
        size = rows_of(length, longest, batch_size)
        if length == longest:
            mine = np.append(mine, np.full(-mine.size % size, -1))
        count = mine.size // size
        rows.append(mine[: count * size])
        sizes.append(np.full(count, size))
        left = mine[count * size :]
    batch_sizes = np.concatenate(sizes)
    batch_lengths = np.repeat(
        np.asarray(bucket_lengths, np.int32), [size.size for size in sizes]
    )
    drawn = rng.permutation(batch_sizes.size)
    first = np.cumsum(batch_sizes) - batch_sizes
    order = np.concatenate(rows)[ranges(first[drawn], batch_sizes[drawn])]
    return Buckets(
        order=order[order >= 0],
        row_sizes=(order >= 0).astype(np.int64),
        batch_sizes=batch_sizes[drawn],
        batch_lengths=batch_lengths[drawn],
    )
