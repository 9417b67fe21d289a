"""Batches of rows of similar length, so that short texts are not padded to the longest."""

from typing import NamedTuple

import numpy as np

_STEP = 8  # lengths are multiples of it
_MOST_LENGTHS = 6
_LENGTHS_PER_DOUBLING = 4


def row_lengths(num_tokens: np.ndarray, longest: int, price: float) -> np.ndarray:
    """Lengths to pad rows to: few of them, chosen so that padding and compiling cost least.

    Args:
        num_tokens: int [rows], tokens of each row.
        longest: T, the largest length allowed.
        price: what one more length costs, in places: so much padding of these rows takes
            as long as compiling for it.

    Returns:
        int [1 to 6], ascending; the last one holds the longest row.
    """
    counts = np.bincount(-(-num_tokens // _STEP))
    (ends,) = np.nonzero(counts)  # in units of 8 tokens
    num_rows = np.concatenate([[0], np.cumsum(counts[ends])])
    # cost[k]: the least for the rows up to length number k, with the lengths so far.
    cost = num_rows[1:] * ends * _STEP + price
    chosen = [[int(end)] for end in ends]
    for _ in range(min(_MOST_LENGTHS, ends.size) - 1):
        before, chosen_before = cost.copy(), list(chosen)
        for k in range(1, ends.size):
            places = (num_rows[k + 1] - num_rows[1 : k + 1]) * ends[k] * _STEP
            with_k = before[:k] + places + price
            best = int(with_k.argmin())
            if with_k[best] < cost[k]:
                cost[k] = with_k[best]
                chosen[k] = [*chosen_before[best], int(ends[k])]
    return np.minimum(np.array(chosen[-1]) * _STEP, longest)


def compiled_lengths(longest: int) -> np.ndarray:
    """The lengths that may be compiled for rows of any texts, int [lengths], ascending.

    Up to 64 they are the multiples of 8, then four for each doubling: 80, 96, 112, 128,
    160 and so on. The last one is `longest`.
    """
    lengths = list(range(_STEP, 65, _STEP))
    while lengths[-1] < longest:
        begin = lengths[-1]
        step = begin // _LENGTHS_PER_DOUBLING
        lengths.extend(begin + step * n for n in range(1, _LENGTHS_PER_DOUBLING + 1))
    return np.array([*(x for x in lengths if x < longest), longest])


class LengthBatches(NamedTuple):
    """Rows sorted into batches, each of rows of similar length."""

    numbers: list[np.ndarray]
    """Of each batch: the numbers of its rows."""
    lengths: np.ndarray
    """int [batches], the length that its rows are padded to."""


def length_batches(
    num_tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray, batch_size: int
) -> LengthBatches:
    """Cuts the rows into batches of `batch_size`; only the last one is smaller.

    Args:
        num_tokens: int [rows], tokens of each row.
        lengths: the lengths that a batch may have, from `row_lengths`.
        order: int [rows], order of the rows; rows of one length keep it.
    """
    bucket = np.searchsorted(lengths, num_tokens[order])
    order = order[np.argsort(bucket, kind="stable")]
    numbers = [order[n : n + batch_size] for n in range(0, order.size, batch_size)]
    widest = [lengths[np.searchsorted(lengths, num_tokens[x].max())] for x in numbers]
    return LengthBatches(numbers, np.array(widest))


def epoch_batches(
    num_tokens: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
) -> LengthBatches:
    """The batches of an epoch in random order, pure in (seed, epoch).

    Every row comes once. Which rows share a batch, and the order of batches, are drawn
    anew for each epoch. The length of each batch does not depend on the seed, so that a
    sweep can train runs of several seeds at once.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(num_tokens.size)
    found = length_batches(num_tokens, lengths, order, batch_size)
    shuffled = np.random.default_rng(epoch).permutation(len(found.numbers))
    return LengthBatches([found.numbers[n] for n in shuffled], found.lengths[shuffled])


def padding_share(num_tokens: np.ndarray, batches: LengthBatches) -> float:
    """The share of padding in the places of all rows."""
    sizes = np.array([numbers.size for numbers in batches.numbers])
    return 1.0 - float(num_tokens.sum() / (sizes * batches.lengths).sum())
