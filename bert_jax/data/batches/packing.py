"""Decides which pairs share a row, and builds the arrays of rows.

Shape suffixes: R rows of an epoch, B rows of a batch, P pairs that a row can hold,
T tokens of a row.
"""

import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.data.batches.pairs import Pairs
from bert_jax.data.prepared.store import TokenStore

# The lengths of the pairs of a row, and the number of such rows.
Shape = tuple[tuple[int, ...], int]


def pack(
    lengths: np.ndarray, row_length: int, pairs_per_row: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Fills rows with pairs: the longest pair first, into the smallest gap that holds it.

    The search works on the histogram of lengths, not on single pairs, so its time
    depends on `row_length` alone. Pairs of the same length are placed at random.

    Args:
        lengths: int [pairs], tokens of each pair, at most `row_length`.
        row_length: T, at most 65,535.
        pairs_per_row: P, most pairs of a row.
        rng: decides the order of the rows, and which pair of a length goes where.

    Returns:
        The numbers of the pairs, int64 [pairs], row after row; and how many pairs each
        row holds, int64 [R], 1 to P.

    Source: best-fit decreasing over a histogram, Krell et al. 2021, section 3.
    """
    histogram = np.bincount(lengths, minlength=row_length + 1)
    # shapes[gap]: the rows with so many free tokens.
    shapes: list[list[Shape]] = [[] for _ in range(row_length + 1)]
    full: list[Shape] = []

    def put(shape: tuple[int, ...], count: int) -> None:
        gap = row_length - sum(shape)
        (full if len(shape) == pairs_per_row else shapes[gap]).append((shape, count))

    for length in range(row_length, 0, -1):
        left = int(histogram[length])
        while left:
            gap = next((g for g in range(length, row_length + 1) if shapes[g]), None)
            if gap is None:
                break
            shape, count = shapes[gap].pop()
            taken = min(count, left)
            if taken < count:
                shapes[gap].append((shape, count - taken))
            put((*shape, length), taken)
            left -= taken
        while left:
            # New rows hold as many of this length as fit, at most `pairs_per_row`.
            per_row = min(row_length // length, pairs_per_row, left)
            put((length,) * per_row, left // per_row)
            left %= per_row
    return _deal(lengths, [*full, *(s for group in shapes for s in group)], rng)


def _deal(
    lengths: np.ndarray, shapes: list[Shape], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Puts the rows in random order, and a random pair of its length into each place."""
    shape_of_row = np.repeat(
        np.arange(len(shapes), dtype=np.int32), [count for _, count in shapes]
    )
    rng.shuffle(shape_of_row)
    # NumPy sorts 16-bit numbers by counting, which is fast.
    width = max((len(shape) for shape, _ in shapes), default=0)
    table = np.zeros((len(shapes), width), np.uint16)
    for number, (shape, _) in enumerate(shapes):
        table[number, : len(shape)] = shape
    row_sizes = np.count_nonzero(table, axis=1)[shape_of_row]
    lengths_RP = table[shape_of_row]
    places = np.argsort(lengths_RP[lengths_RP > 0], kind="stable")
    pairs = np.argsort(lengths.astype(np.uint16), kind="stable")
    histogram = np.bincount(lengths)
    for end, count in zip(np.cumsum(histogram), histogram, strict=True):
        rng.shuffle(pairs[end - count : end])
    order = np.empty_like(pairs)
    order[places] = pairs
    return order, row_sizes


def assemble(
    store: TokenStore,
    pairs: Pairs,
    row_sizes: np.ndarray,
    row_length: int,
    pairs_per_row: int,
    special: SpecialIds,
) -> PretrainBatch:
    """Builds the arrays of some rows.

    Args:
        store: the token stream of the pairs.
        pairs: the pairs of the rows, row after row.
        row_sizes: int [B], how many pairs each row holds; a row of 0 pairs is padding
            and has no weight in any loss.
        row_length: T.
        pairs_per_row: P.
        special: ids of the special tokens.
    """
    shape = (row_sizes.size, row_length)
    ids, segments, sequences, positions = np.zeros((4, shape[0] * shape[1]), np.int32)
    if special.pad:
        ids.fill(special.pad)
    cls_BP, labels_BP = np.zeros((2, shape[0], pairs_per_row), np.int32)
    weights_BP = np.zeros((shape[0], pairs_per_row), np.float32)

    row = np.repeat(np.arange(row_sizes.size), row_sizes)
    first_of_row = np.cumsum(row_sizes) - row_sizes
    place = np.arange(row.size) - first_of_row[row]
    a_length, b_length = (x.astype(np.int64) for x in (pairs.a_length, pairs.b_length))
    has_b = b_length > 0
    total = a_length + b_length + 2 + has_b
    before = np.cumsum(total) - total
    offset = before - before[first_of_row[row]]
    cls_BP[row, place] = offset
    labels_BP[row, place] = pairs.label
    weights_BP[row, place] = pairs.has_label

    # Positions in the flattened batch: row * T + offset of the pair in its row.
    base = row * row_length + offset
    every = ranges(base, total)
    sequences[every] = np.repeat(place + 1, total)
    positions[every] = every - np.repeat(base, total)
    b_base = base + 2 + a_length
    segments[ranges(b_base, b_length + has_b)] = 1
    ids[base] = special.cls
    ids[base + 1 + a_length] = special.sep
    ids[(base + total - 1)[has_b]] = special.sep
    ids[ranges(base + 1, a_length)] = store.tokens[ranges(pairs.a_start, a_length)]
    ids[ranges(b_base, b_length)] = store.tokens[ranges(pairs.b_start, b_length)]
    return PretrainBatch(
        input_ids=ids.reshape(shape),
        segment_ids=segments.reshape(shape),
        sequence_ids=sequences.reshape(shape),
        position_ids=positions.reshape(shape),
        cls_positions=cls_BP,
        nsp_labels=labels_BP,
        nsp_weights=weights_BP,
    )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Joins `arange(start, start + length)` of all entries."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(
        starts - (ends - lengths), lengths
    )
