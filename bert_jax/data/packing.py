"""Which pairs share a row, and the arrays of a batch of rows.

Shape suffixes: B rows of a batch, R rows of an epoch, P pairs that a row can hold,
T tokens.
"""

import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.data.pairs import Pairs, TokenStore

NO_PAIR = -1


def pack(
    lengths: np.ndarray, row_length: int, pairs_per_row: int, rng: np.random.Generator
) -> np.ndarray:
    """Fills rows with pairs, longest first into the tightest gap.

    The search runs over the histogram of lengths, not over the pairs: its time depends
    on `row_length` alone. Which pair of a length goes where is drawn.

    Args:
        lengths: int [pairs], tokens of each pair, none above `row_length`.
        row_length: T.
        pairs_per_row: P.
        rng: of the order of pairs of one length and of the rows.

    Returns:
        int32 [R, P], numbers of pairs; `NO_PAIR` where a row holds fewer.

    Source: best-fit decreasing over a histogram, Krell et al. 2021, section 3.
    """
    histogram = np.bincount(lengths, minlength=row_length + 1)
    # shapes[gap]: (lengths in the row so far, number of such rows).
    shapes: list[list[tuple[tuple[int, ...], int]]] = [
        [] for _ in range(row_length + 1)
    ]
    full: list[tuple[tuple[int, ...], int]] = []

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
    lengths: np.ndarray,
    shapes: list[tuple[tuple[int, ...], int]],
    rng: np.random.Generator,
) -> np.ndarray:
    """Gives every place of every row shape a pair of its length."""
    order = rng.permutation(lengths.size)
    order = order[np.argsort(lengths[order], kind="stable")]
    next_of = np.searchsorted(lengths[order], np.arange(lengths.max(initial=0) + 2))
    width = max((len(shape) for shape, _ in shapes), default=1)
    rows_RP = np.full((sum(n for _, n in shapes), width), NO_PAIR, np.int32)
    row = 0
    for shape, count in shapes:
        for place, length in enumerate(shape):
            start = next_of[length]
            rows_RP[row : row + count, place] = order[start : start + count]
            next_of[length] += count
        row += count
    return rows_RP[rng.permutation(row)]


def assemble(
    store: TokenStore,
    pairs: Pairs,
    rows_BP: np.ndarray,
    row_length: int,
    pairs_per_row: int,
    special: SpecialIds,
    *,
    next_sentence: bool,
) -> PretrainBatch:
    """Builds the arrays of some rows.

    Args:
        store: the token stream that `pairs` points into.
        rows_BP: numbers of pairs, `NO_PAIR` where there is none; may be narrower than
            `pairs_per_row`.
        next_sentence: whether the labels count.
    """
    num_rows = rows_BP.shape[0]
    shape = (num_rows, row_length)
    ids_BT = np.full(shape, special.pad, np.int32)
    segments_BT, sequences_BT, positions_BT = (np.zeros(shape, np.int32) for _ in "123")
    cls_BP, labels_BP = (np.zeros((num_rows, pairs_per_row), np.int32) for _ in "12")
    weights_BP = np.zeros((num_rows, pairs_per_row), np.float32)

    row, place = np.nonzero(rows_BP != NO_PAIR)
    pair = rows_BP[row, place]
    a_length, b_length = pairs.a_length[pair], pairs.b_length[pair]
    has_b = b_length > 0
    total = a_length + b_length + 2 + has_b
    length_BP = np.zeros(rows_BP.shape, np.int64)
    length_BP[row, place] = total
    offset = (np.cumsum(length_BP, axis=1) - length_BP)[row, place]
    cls_BP[row, place] = offset
    labels_BP[row, place] = pairs.is_random[pair]
    weights_BP[row, place] = next_sentence

    # Flat destinations: row * T + offset of the pair in its row.
    base = row * row_length + offset
    every = _ranges(base, total)
    sequences_BT.flat[every] = np.repeat(place + 1, total)
    positions_BT.flat[every] = _ranges(np.zeros_like(base), total)
    b_base = base + 2 + a_length
    segments_BT.flat[_ranges(b_base, b_length + has_b)] = 1
    ids_BT.flat[base] = special.cls
    ids_BT.flat[base + 1 + a_length] = special.sep
    ids_BT.flat[(base + total - 1)[has_b]] = special.sep
    a_source = _ranges(pairs.a_start[pair], a_length)
    ids_BT.flat[_ranges(base + 1, a_length)] = store.tokens[a_source]
    b_source = _ranges(pairs.b_start[pair], b_length)
    ids_BT.flat[_ranges(b_base, b_length)] = store.tokens[b_source]
    return PretrainBatch(
        input_ids=ids_BT,
        segment_ids=segments_BT,
        sequence_ids=sequences_BT,
        position_ids=positions_BT,
        cls_positions=cls_BP,
        nsp_labels=labels_BP,
        nsp_weights=weights_BP,
    )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`arange(start, start + length)` of every entry, one behind the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(
        starts - (ends - lengths), lengths
    )
