"""Pairs of like length together, so that rows of a few fixed lengths waste little."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data.batches.packing import ranges


class Buckets(NamedTuple):
    """Batches of one pair a row, each of one length."""

    order: np.ndarray  # int64 [pairs], numbers of pairs, row after row
    row_sizes: np.ndarray  # int64 [rows], 1, or 0 for a row that only fills up
    batch_sizes: np.ndarray  # int64 [batches], rows of each
    batch_lengths: np.ndarray  # int32 [batches], tokens of their rows


def rows_of(length: int, longest: int, batch_size: int) -> int:
    """Rows of a batch of `length`: as many tokens as rows of `longest`, or a few less."""
    return batch_size * (longest // length)


def fill_buckets(
    lengths: np.ndarray,
    bucket_lengths: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
) -> Buckets:
    """Deals every pair into a batch of the shortest rows that hold it.

    What does not fill a batch goes up to the next longer bucket; the last batch of the
    longest is filled up with empty rows.

    Args:
        lengths: int [pairs], tokens of each pair, none above the longest bucket.
        bucket_lengths: ascending.
        batch_size: rows of a batch of the longest; others hold as many tokens.
        rng: of who shares a batch, who goes up, and of the order of the batches.
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
        np.asarray(bucket_lengths, np.int32), [part.size for part in sizes]
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
