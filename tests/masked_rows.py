"""Rows to mask, and what must hold of them: shared by the tests of the three units."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import MaskVocabulary, PretrainBatch, SpecialIds
from bert_jax.model.masking_words import Words, find_words

VOCAB = 61


def vocabulary_of(special: SpecialIds, starts_word) -> MaskVocabulary:
    starts_word = np.asarray(starts_word, bool)
    return MaskVocabulary(special, starts_word.size, starts_word)


def rows_of(ids, segments=None, sequences=None) -> PretrainBatch:
    """One sequence a row; id 0 is padding."""
    ids = np.asarray(ids, np.int32)
    real = (ids > 0).astype(np.int32)
    sequences = real if sequences is None else np.asarray(sequences, np.int32)
    segments = 0 * real if segments is None else np.asarray(segments, np.int32)
    positions = np.arange(ids.shape[1], dtype=np.int32) * real
    none = np.zeros((len(ids), 1), np.int32)
    return PretrainBatch(
        ids, segments, sequences, positions, none, none, none.astype(np.float32)
    )


def scattered_rows(num_rows: int, length: int, seed: int) -> PretrainBatch:
    """Sequences, segments and special tokens anywhere, not only where they belong."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCAB, (num_rows, length))
    ids[rng.random(ids.shape) < 0.1] = 2
    ids[rng.random(ids.shape) < 0.05] = 3
    sequences = 1 + np.cumsum(rng.random(ids.shape) < 0.05, axis=1)
    segments = np.cumsum(rng.random(ids.shape) < 0.05, axis=1) % 2
    sizes = rng.integers(0, length + 1, num_rows)
    sizes[: num_rows // 2] = length
    real = np.arange(length) < sizes[:, None]
    return rows_of(ids * real, segments * real, sequences * real)


def words_of(batch: PretrainBatch, row: int, vocabulary: MaskVocabulary):
    """[(positions of a word, whether it follows the one before without a gap)]."""
    special = vocabulary.special
    words, before = [], None
    for at, index in enumerate(batch.input_ids[row]):
        here = (batch.sequence_ids[row, at], batch.segment_ids[row, at])
        if here[0] == 0 or index in (special.pad, special.cls, special.sep):
            before = None
            continue
        if here != before or vocabulary.starts_word[index]:
            words.append(([], here == before))
        words[-1][0].append(at)
        before = here
    return words


_find = jax.jit(find_words)


def found_words(batch: PretrainBatch, vocabulary: MaskVocabulary) -> Words:
    """The same for all rows, as masking finds them."""
    ids = jnp.asarray(batch.input_ids)
    special = vocabulary.special
    unmaskable = np.array([special.pad, special.cls, special.sep])
    maskable = jnp.asarray(batch.sequence_ids > 0) & ~jnp.isin(ids, unmaskable)
    return _find(batch, vocabulary.starts_word, maskable)


def hide_one_by_one(words, scores, lengths, wanted) -> np.ndarray:
    """Where the span of each token of a row starts, -1 outside: one span at a time.

    Args:
        words: of `words_of`.
        scores: [T]; that of a word stands at its first token, the highest goes first.
        lengths: [T], words of a span, likewise.
        wanted: tokens to hide.
    """
    starts = np.full(len(scores), -1)
    order = sorted(range(len(words)), key=lambda w: -scores[words[w][0][0]])
    for first in order:
        start = words[first][0][0]
        for w in range(first, min(first + lengths[start], len(words))):
            positions, follows = words[w]
            is_free = starts[positions[0]] < 0 and len(positions) <= wanted
            if not is_free or (w > first and not follows):
                break
            starts[positions] = start
            wanted -= len(positions)
    return starts


def expect(count: float, trials: int, rate: float) -> None:
    """Within five standard deviations of a binomial."""
    assert abs(count - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate)), (
        count,
        trials * rate,
    )


def shown_tokens(masked) -> np.ndarray:
    """[B, M]: what stands in each slot's position after masking."""
    return np.take_along_axis(masked.input_ids, masked.positions, axis=1)


def hidden_tokens(masked) -> np.ndarray:
    """bool [B, T], from the slots in use."""
    length = masked.input_ids.shape[1]
    hidden = np.zeros((len(masked.positions), length + 1), bool)
    used = masked.weights > 0
    np.put_along_axis(hidden, np.where(used, masked.positions, length), True, axis=1)
    return hidden[:, :length]


def assert_consistent(batch: PretrainBatch, masked, vocabulary: MaskVocabulary) -> None:
    """What must hold of every result, row by row."""
    special = vocabulary.special
    for b, ids in enumerate(batch.input_ids):
        used = int(masked.weights[b].sum())
        weights = np.arange(masked.weights.shape[1]) < used
        np.testing.assert_array_equal(masked.weights[b], weights.astype(np.float32))
        positions = masked.positions[b, :used]
        assert (np.diff(positions) > 0).all(), "ascending, none twice"
        np.testing.assert_array_equal(masked.labels[b, :used], ids[positions])
        assert not masked.positions[b, used:].any()
        assert not masked.labels[b, used:].any()
        forbidden = {special.pad, special.cls, special.sep}
        assert forbidden.isdisjoint(ids[positions].tolist())
        assert (batch.sequence_ids[b, positions] > 0).all()
        untouched = np.setdiff1d(np.arange(ids.size), positions)
        np.testing.assert_array_equal(masked.input_ids[b, untouched], ids[untouched])
    assert masked.input_ids.min() >= 0
    assert masked.input_ids.max() < vocabulary.size
    assert masked.input_ids.dtype == masked.positions.dtype == np.int32
    assert masked.labels.dtype == np.int32
    assert masked.weights.dtype == np.float32
