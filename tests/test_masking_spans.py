"""Spans: their lengths, where they start and end, and one fate for all their tokens."""

import functools

import jax
import numpy as np
import pytest
from masked_rows import (
    VOCAB,
    assert_consistent,
    expect,
    found_words,
    hidden_tokens,
    hide_one_by_one,
    rows_of,
    scattered_rows,
    shown_tokens,
    vocabulary_of,
    words_of,
)

from bert_jax.config import MaskingConfig
from bert_jax.model.masking_choice import draw_span_lengths
from bert_jax.model.masking_words import hide_spans, span_limits

SPAN = MaskingConfig(unit="span")


@functools.partial(jax.jit, static_argnames="num_slots")
def _hide(words, lengths, scores, wanted, num_slots=24):
    return hide_spans(words, span_limits(words, lengths), scores, wanted, num_slots)


@pytest.mark.parametrize("seed", range(6))
def test_spans_are_taken_as_one_by_one(special, seed):
    rng = np.random.default_rng(seed)
    batch = scattered_rows(64, 48, seed)
    vocabulary = vocabulary_of(special, rng.random(VOCAB) < rng.choice([0.4, 0.8, 1.0]))
    # Coarse scores, so that some are equal.
    scores = (rng.integers(0, 40, (64, 48)) / 64).astype(np.float32)
    lengths = rng.integers(1, 9, (64, 48)).astype(np.int32)
    wanted = rng.integers(0, 25, 64).astype(np.int32)
    starts = np.asarray(_hide(found_words(batch, vocabulary), lengths, scores, wanted))
    for b in range(64):
        expected = hide_one_by_one(
            words_of(batch, b, vocabulary), scores[b], lengths[b], wanted[b]
        )
        np.testing.assert_array_equal(starts[b], expected)


def chi_square(counts, shares) -> float:
    expected = counts.sum() * shares
    return float(((counts - expected) ** 2 / expected).sum())


def span_shares(p: float, longest: int) -> np.ndarray:
    """Of spans of 1 .. longest words: geometric, and nothing beyond."""
    shares = p * (1 - p) ** np.arange(longest)
    return shares / shares.sum()


@pytest.mark.parametrize(
    ("p", "longest"), [(0.2, 10), (0.5, 3), (1.0, 10), (0.2, 1), (1e-12, 6)]
)
def test_lengths_follow_the_truncated_geometric_distribution(p, longest):
    cfg = MaskingConfig(unit="span", span_p=p, max_span_words=longest)
    drawn = np.asarray(draw_span_lengths(cfg, (200, 500), jax.random.key(0)))
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn.ravel())[1:]
    shares = span_shares(p, longest)
    if p == 1.0:
        shares = shares[:1]
    assert counts.size == shares.size
    # Five deviations above the mean of the distribution with so many freedoms.
    freedoms = shares.size - 1
    assert chi_square(counts, shares) <= freedoms + 5 * np.sqrt(2 * freedoms)
    if (p, longest) == (0.2, 10):
        # Joshi et al. 2020, section 3.1: 3.8; the deviation of one length is 2.5.
        mean = (np.arange(1, 11) * shares).sum()
        assert abs(mean - 3.8) < 0.01
        assert abs(drawn.mean() - mean) < 5 * 2.5 / np.sqrt(drawn.size)


def runs(hidden) -> tuple[np.ndarray, np.ndarray]:
    """(first positions, lengths) of the runs of hidden tokens of all rows."""
    padded = np.pad(hidden, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return starts[:, 1], ends[:, 1] - starts[:, 1]


def test_spans_of_long_rows_have_these_lengths_and_start_anywhere(mask, special):
    # Words of one token; with 2 % hidden few spans meet, one of 22 is cut at the end.
    vocabulary = vocabulary_of(special, np.ones(VOCAB, bool))
    batch = rows_of(np.full((24, 4096), 9))
    cfg = MaskingConfig(unit="span", rate=0.02)
    starts, lengths = zip(
        *(runs(hidden_tokens(mask(batch, n, cfg, vocabulary))) for n in range(2)),
        strict=True,
    )
    starts, lengths = np.concatenate(starts), np.concatenate(lengths)
    assert lengths.sum() == 2 * 24 * 82
    assert (lengths > 10).mean() < 0.02, "spans that lie side by side"
    counts = np.bincount(lengths)[1:11]
    shares = span_shares(0.2, 10)
    # 9 + 5 * sqrt(18) for chance, and a third more for spans that are cut or meet.
    assert chi_square(counts, shares) < 40
    eighths = np.bincount(starts // 512, minlength=8)
    for count in eighths:
        expect(count, starts.size, 1 / 8)


@pytest.mark.parametrize("rate", [0.15, 0.6])
def test_spans_of_packed_rows_are_whole_words_up_to_the_number(
    mask, make_batch, vocabulary, rate
):
    cfg = MaskingConfig(unit="span", rate=rate)
    batch = make_batch(rows=48, length=64, seed=int(10 * rate))
    masked = mask(batch, 1, cfg)
    assert_consistent(batch, masked, vocabulary)
    hidden = hidden_tokens(masked)
    for b in range(48):
        left = cfg.num_slots(int((batch.sequence_ids[b] > 0).sum())) - hidden[b].sum()
        assert left >= 0
        for positions, _ in words_of(batch, b, vocabulary):
            assert hidden[b, positions].all() or not hidden[b, positions].any()
            assert hidden[b, positions].any() or len(positions) > left, "it did fit"


def test_spans_stop_where_a_segment_or_sequence_does(special):
    # Five segments and sequences of four words each, side by side.
    segments = np.repeat([[0, 1, 0, 1, 1]], 4, axis=1)
    sequences = np.repeat([[1, 1, 2, 2, 3]], 4, axis=1)
    batch = rows_of(np.full((1, 20), 9), segments, sequences)
    vocabulary = vocabulary_of(special, np.ones(VOCAB, bool))
    lengths = np.full((1, 20), 10, np.int32)
    words = found_words(batch, vocabulary)
    for first in range(20):
        scores = np.zeros((1, 20), np.float32)
        scores[0, first] = 0.5
        starts = np.asarray(_hide(words, lengths, scores, np.array([24], np.int32)))
        end = 4 * (first // 4 + 1)
        np.testing.assert_array_equal(starts[0, first:end], first)
        assert first not in starts[0, end:]


def test_80_10_10_of_each_span_as_a_whole(mask, special):
    # Words of four pieces, and four tokens to hide: one span a row, of one word.
    vocabulary = vocabulary_of(special, np.arange(VOCAB) == 7)
    masked = mask(rows_of(np.tile([7, 8, 9, 10], (4096, 7))), 0, SPAN, vocabulary)
    assert masked.weights.shape == (4096, 4)
    assert masked.weights.all()
    shown = shown_tokens(masked)
    hidden = (shown == special.mask).all(1)
    kept = (shown == masked.labels).all(1)
    expect(hidden.sum(), 4096, 0.8)
    expect(kept.sum(), 4096, 0.1)
    drawn = shown[~hidden & ~kept]
    # Random tokens are drawn one by one, whatever stood there.
    for matches in (
        drawn == special.mask,
        drawn == masked.labels[~hidden & ~kept],
        drawn[:, :-1] == drawn[:, 1:],
    ):
        expect(matches.sum(), matches.size, 1 / VOCAB)


def test_words_of_one_span_share_their_draw_and_other_words_do_not(mask, special):
    # Two words a row, both hidden. One span of both needs the first word first and
    # length two, in a quarter of the rows; else each word draws for itself.
    vocabulary = vocabulary_of(special, np.ones(VOCAB, bool))
    cfg = MaskingConfig(
        unit="span",
        rate=0.5,
        mask_share=0.5,
        random_share=0.0,
        span_p=1e-12,
        max_span_words=2,
    )
    masked = mask(rows_of(np.tile([2, 7, 8, 3], (4096, 1))), 0, cfg, vocabulary)
    assert masked.weights.all()
    hidden = shown_tokens(masked) == special.mask
    expect(hidden.sum(), hidden.size, 0.5)
    expect((hidden[:, 0] == hidden[:, 1]).sum(), 4096, 1 / 4 + 3 / 4 * 1 / 2)
