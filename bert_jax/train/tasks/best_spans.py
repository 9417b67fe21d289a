"""The best spans of passages, from the logits of their first and last tokens."""

from typing import NamedTuple

import numpy as np

from bert_jax.data.labelled.examples import EncodedExamples


class Span(NamedTuple):
    score: float
    """Sum of the logits of both ends."""
    first_word: int
    last_word: int


class Found(NamedTuple):
    spans: list[Span]
    """The best of all rows of a passage, the best one first; empty if a passage has no
    words."""
    none_score: float
    """Sum of both logits of [CLS]; the smallest over the rows of the passage."""

    @property
    def margin(self) -> float:
        """How much "no answer" is ahead of the best span."""
        return self.none_score - (self.spans[0].score if self.spans else -np.inf)


def best_spans(
    logits: np.ndarray, encoded: EncodedExamples, *, num_best: int, max_tokens: int
) -> list[Found]:
    """The best spans of each example, over all of its rows.

    A span begins with the first token of a word and ends with the last token of one, as
    labels do. In several rows, its best score counts.

    Args:
        logits: float32 [rows, T, 2].
        num_best: most spans of an example.
        max_tokens: most tokens of a span.

    Source: google-research/bert, run_squad.py (write_predictions).
    """
    assert encoded.word is not None
    last_word = encoded.word if encoded.last_word is None else encoded.last_word
    size = int(encoded.example[-1]) + 1
    scores: list[dict[tuple[int, int], float]] = [{} for _ in range(size)]
    none = np.full(size, np.inf)
    for row, example in enumerate(encoded.example):
        none[example] = min(none[example], float(logits[row, 0].sum()))
        best = scores[example]
        words_T2 = np.stack([encoded.word[row], last_word[row]], axis=1)
        for span in _of_row(
            logits[row].astype(np.float64), words_T2, num_best, max_tokens
        ):
            words = span.first_word, span.last_word
            best[words] = max(span.score, best.get(words, -np.inf))
    found = []
    for best, none_score in zip(scores, none, strict=True):
        spans = [Span(score, *words) for words, score in best.items()]
        spans.sort(key=lambda span: (-span.score, span.first_word, span.last_word))
        found.append(Found(spans[:num_best], float(none_score)))
    return found


def _of_row(
    logits_T2: np.ndarray, words_T2: np.ndarray, num_best: int, max_tokens: int
) -> list[Span]:
    (places,) = np.nonzero(words_T2[:, 0] >= 0)
    if not places.size:
        return []
    word, last_word = words_T2[places].T
    starts, ends = logits_T2[places].T
    changes = np.flatnonzero(np.diff(word)) + 1
    opens = np.concatenate([[0], changes])
    ends = np.where(
        np.isin(np.arange(word.size), [*(changes - 1), word.size - 1]), ends, -np.inf
    )
    # [words, tokens of the span]
    padded = np.concatenate([ends, np.full(max_tokens - 1, -np.inf)])
    sums = (
        starts[opens, None]
        + np.lib.stride_tricks.sliding_window_view(padded, max_tokens)[opens]
    )
    flat = sums.ravel()
    chosen = np.argpartition(-flat, min(num_best, flat.size) - 1)[:num_best]
    first, more = np.unravel_index(chosen[flat[chosen] > -np.inf], sums.shape)
    return [
        Span(float(sums[n, m]), int(word[opens[n]]), int(last_word[opens[n] + m]))
        for n, m in zip(first, more, strict=True)
    ]
