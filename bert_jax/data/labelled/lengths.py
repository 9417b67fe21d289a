"""Batches of rows of similar length, so that short texts are not padded to the longest."""

from typing import NamedTuple

import numpy as np

_STEP = 8  # lengths are multiples of it
_MOST_LENGTHS = 6
_BATCHES_PER_LENGTH = 150  # to compile a length takes as long as many small batches


def row_lengths(num_tokens: np.ndarray, longest: int, num_batches: int) -> np.ndarray:
    """Lengths to pad rows to: few of them, chosen so that all padding is least.

    Args:
        num_tokens: int [rows], tokens of each row.
        longest: T, the largest length allowed.
        num_batches: number of batches to come, which limits the number of lengths.

    Returns:
        int [2 to 6, or 1 if all rows are alike], ascending; the last one holds the longest
        row.
    """
    most = min(_MOST_LENGTHS, max(2, 1 + num_batches // _BATCHES_PER_LENGTH))
    counts = np.bincount(-(-num_tokens // _STEP))
    (ends,) = np.nonzero(counts)  # in units of 8 tokens
    num_rows = np.concatenate([[0], np.cumsum(counts[ends])])
    # cost[k]: fewest places for the rows up to length number k, with the lengths so far.
    cost = num_rows[1:] * ends
    chosen = [[int(end)] for end in ends]
    for _ in range(min(most, ends.size) - 1):
        before, chosen_before = cost.copy(), list(chosen)
        for k in range(1, ends.size):
            places = before[:k] + (num_rows[k + 1] - num_rows[1 : k + 1]) * ends[k]
            best = int(places.argmin())
            if places[best] < cost[k]:
                cost[k] = places[best]
                chosen[k] = [*chosen_before[best], int(ends[k])]
    return np.minimum(np.array(chosen[-1]) * _STEP, longest)


def compiled_lengths(longest: int) -> np.ndarray:
    """The lengths that may be compiled for rows of any texts, int [lengths], ascending.

    Each is at most 1.5 times the one before: 8, 16, 24, 32, 48, 64, 96, 128, 192 and so
    on. The last one is `longest`.
    """
    lengths = [_STEP * x for x in (1, 2, 3)]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-2])
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
