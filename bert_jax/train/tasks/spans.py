"""Extractive question answering: finds the span of a passage that answers a question."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.question_rows import encode_questions
from bert_jax.data.labelled.questions import Questions, read_questions
from bert_jax.data.labelled.unlabelled import Unlabelled, read_lines
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model.rows import MASKED_SCORE
from bert_jax.model.text_heads import SPANS
from bert_jax.train.losses import Mean, cross_entropy
from bert_jax.train.tasks.answer_scores import (
    AnswerScores,
    answer_scores,
    best_threshold,
)
from bert_jax.train.tasks.best_spans import Found, best_spans
from bert_jax.train.tasks.by_counts import ByCounts, means
from bert_jax.train.tasks.intervals import wilson
from bert_jax.train.tasks.task import Judged, Metric, Task, log_softmax

_NUM_BEST = 10
_THRESHOLD = "no_answer_threshold"


class Spans(Task):
    """The first and the last token of an answer.

    If some held-out questions have no answer in their passage, a threshold is fitted to
    them: a question gets no answer where the score of [CLS] is ahead of that of the best
    span by more than it. If all have one, every question gets an answer.

    Source: Devlin et al. 2018, sections 4.2 and 4.3.
    """

    name = "spans"
    head = "spans"
    init_params = staticmethod(SPANS.init_params)
    apply = staticmethod(SPANS.apply)
    pooled = False
    settings = frozenset({"stride", "max_answer_tokens"})
    fixed_outputs = ("start", "end")
    metrics = (
        Metric("f1", "F1"),
        Metric("exact_match", "exact match", interval=wilson),
        Metric("answerable_f1", "F1 of those with an answer"),
        Metric("answerable_exact_match", "exact match of those with an answer"),
        Metric("unanswerable_accuracy", "accuracy of those without"),
    )

    fits = (_THRESHOLD,)

    @property
    def threshold(self) -> float | None:
        """`None`: every question gets an answer."""
        return self.fitted.get(_THRESHOLD)

    def fit(self, judged: Judged) -> dict[str, float]:
        """The threshold with the best F1, where some questions have no answer.

        It is fitted to the questions that it is judged on, as the "best F1" of the official
        script, so these scores flatter a little.
        """
        examples = judged.examples
        has_answer = np.array([bool(answers) for answers in examples.answers])
        if has_answer.all() or not has_answer.any():
            return {}
        found = self._found(judged, num_best=1)
        margins = np.array([each.margin for each in found])
        texts = [_best_text(each, examples, n) for n, each in enumerate(found)]
        answered = answer_scores(texts, _accepted(examples)).f1
        unanswered = answer_scores([""] * len(texts), _accepted(examples)).f1
        # Without a span there is nothing to weigh.
        real = np.isfinite(margins)
        if not real.any():
            return {}
        return {
            _THRESHOLD: best_threshold(margins[real], answered[real], unanswered[real])
        }

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> Questions:
        cfg.refuse_columns("skip_incomplete")
        return read_questions(path, cfg)

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        """SQuAD's form, or a .txt with a question, a tab and a passage a line."""
        cfg.refuse_columns("skip_incomplete")
        if path.suffix.lower() == ".txt":
            return read_lines(path, cfg)
        found = read_questions(path, cfg, answered=False)
        texts = list(zip(found.questions, found.passages, strict=True))
        how, warnings = found.reading.how, found.reading.warnings
        return Unlabelled(texts, list(found.ids), how=how, warnings=warnings)

    def counts(self, examples: Questions, outputs: Sequence[str]) -> str:
        num_none = sum(not answers for answers in examples.answers)
        return f"{len(set(examples.passages)):,} passages, {num_none:,} without answer"

    def num_texts(self, cfg: TaskConfig) -> int:
        """2: a question and a passage."""
        return 2

    def text_names(self, cfg: TaskConfig, outputs: Sequence[str]) -> tuple[str, ...]:
        return ("Question", "Passage")

    def unlabelled(self, texts: Sequence[Text]) -> Questions:
        questions, passages = zip(*texts, strict=True) if texts else ((), ())
        return Questions(questions, passages, ((),) * len(texts))

    def outputs(self, train: Questions) -> tuple[str, ...]:
        return self.fixed_outputs

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: Questions,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        return encode_questions(tokenizer, examples, sequence_length, self.cfg.stride)

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        # Twice the number of rows, so that the sum of both losses is the mean of the ends.
        weight = 2.0 * batch.weights.sum()
        return {f"{end}_loss": weight for end in self.fixed_outputs}

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Cross-entropies of both ends over the real tokens, in nats.

        The logits of padding are left out, so that a row's loss does not depend on the
        length of its padding. (Published fine-tuning code includes padding.)

        Args:
            logits: float32 [B, T, 2].
            batch: labels are int32 [B, 2], the first and the last token of the answer;
                rows without an answer point at [CLS].
        """
        real_BT = jnp.asarray(batch.input_mask) > 0
        logits = jnp.where(real_BT[:, :, None], logits, MASKED_SCORE)
        means: dict[str, Mean] = {}
        for number, end in enumerate(self.fixed_outputs):
            means[f"{end}_loss"], means[f"{end}_accuracy"] = cross_entropy(
                logits[..., number], batch.labels[:, number], batch.weights
            )
        return means

    def scores(self, judged: Judged) -> dict[str, float]:
        """Exact match and F1 of the answers' words, as in the official script.

        Where some questions have no answer, also those of both parts, and the threshold.
        """
        exact, f1 = self._answer_scores(judged)
        has_answer = np.array([bool(answers) for answers in judged.examples.answers])
        parts = {}
        if not has_answer.all() and has_answer.any():
            parts = {
                "answerable_f1": float(f1[has_answer].mean()),
                "answerable_exact_match": float(exact[has_answer].mean()),
                "unanswerable_accuracy": float(exact[~has_answer].mean()),
            }
        if self.threshold is not None:
            parts[_THRESHOLD] = self.threshold
        return {
            "f1": float(f1.mean()),
            "exact_match": float(exact.mean()),
            **parts,
            "loss": float(_row_losses(judged).mean()),
        }

    def by_counts(self, judged: Judged) -> ByCounts:
        exact, f1 = self._answer_scores(judged)
        all_of = np.ones(len(judged.examples))
        with_answer = np.array([float(bool(x)) for x in judged.examples.answers])
        parts = {"f1": (f1, all_of), "exact_match": (exact, all_of)}
        if 0.0 < with_answer.mean() < 1.0:
            parts["answerable_f1"] = f1, with_answer
            parts["answerable_exact_match"] = exact, with_answer
            parts["unanswerable_accuracy"] = exact, 1.0 - with_answer
        return means(parts)

    def example_losses(self, judged: Judged) -> np.ndarray:
        """Cross-entropy of the rows of each question, in nats: that of the worst row."""
        losses = np.zeros(len(judged.examples))
        np.maximum.at(losses, judged.encoded.example, _row_losses(judged))
        return losses

    def constant_scores(self, examples: Questions) -> dict[str, float]:
        """The scores of saying, for every question, that the passage has no answer."""
        share = sum(not answers for answers in examples.answers) / len(examples)
        return {"exact_match": share, "f1": share}

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        """The best answer with its characters in the passage, and the best ones beside it.

        Without an answer, the answer is "" and has no characters. Probabilities are a
        softmax of the scores of the best answers, among which is that of no answer if the
        run has a threshold.
        """
        found = self._found(judged, num_best=_NUM_BEST)
        return [
            self._prediction(each, judged.examples, number)
            for number, each in enumerate(found)
        ]

    def _prediction(
        self, found: Found, examples: Questions, number: int
    ) -> dict[str, Any]:
        passage = examples.passages[number]
        best: list[dict[str, Any]] = []
        for span in found.spans:
            start, end = examples.place_of(number, span.first_word, span.last_word)
            answer = passage[start:end]
            best.append(
                {"answer": answer, "start": start, "end": end, "score": span.score}
            )
        none = {"answer": "", "start": None, "end": None, "score": found.none_score}
        if self.threshold is not None or not best:
            best.append(none)
        shares = np.exp(log_softmax(np.array([x["score"] for x in best])))
        best = [
            x | {"probability": float(p)} for x, p in zip(best, shares, strict=True)
        ]
        chosen = best[-1] if self._has_none(found) else best[0]
        best.sort(key=lambda x: -x["score"])
        return {**chosen, "no_answer_score": found.none_score, "nbest": best}

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        said = [
            f"{x['answer'] or 'no answer'} {x['probability']:.1%}"
            for x in (prediction, *prediction["nbest"])
        ]
        return ", ".join(list(dict.fromkeys(said))[:top])

    def _answer_scores(self, judged: Judged) -> AnswerScores:
        """The scores of each question."""
        texts = [
            "" if self._has_none(each) else _best_text(each, judged.examples, number)
            for number, each in enumerate(self._found(judged, num_best=1))
        ]
        return answer_scores(texts, _accepted(judged.examples))

    def _found(self, judged: Judged, *, num_best: int) -> list[Found]:
        return best_spans(
            judged.logits,
            judged.encoded,
            num_best=num_best,
            max_tokens=self.cfg.max_answer_tokens,
        )

    def _has_none(self, found: Found) -> bool:
        """Whether a question gets no answer."""
        return not found.spans or (
            self.threshold is not None and found.margin > self.threshold
        )

    def say_line(self, line: Mapping[str, float]) -> str:
        said = super().say_line(line)
        if "start_accuracy" in line:
            said += (
                f"  start {line['start_accuracy']:.1%}  end {line['end_accuracy']:.1%}"
            )
        if _THRESHOLD in line:
            said += f"  (no answer from a margin of {line[_THRESHOLD]:.2f} on)"
        return said


def _row_losses(judged: Judged) -> np.ndarray:
    """Mean cross-entropy of both ends, float64 [rows]."""
    logits, encoded = judged.logits, judged.encoded
    real = encoded.input_mask[:, :, None] > 0
    log_probs = log_softmax(
        np.where(real, logits, MASKED_SCORE).astype(np.float64).swapaxes(1, 2)
    )
    chosen = np.take_along_axis(log_probs, encoded.labels[:, :, None], axis=2)
    losses: np.ndarray = -chosen.mean(axis=(1, 2))
    return losses


def _accepted(examples: Questions) -> list[list[str]]:
    return [[answer.text for answer in answers] for answers in examples.answers]


def _best_text(found: Found, examples: Questions, number: int) -> str:
    """The best span of a passage as text, or "" without one."""
    if not found.spans:
        return ""
    _, first, last = found.spans[0]
    start, end = examples.place_of(number, first, last)
    return examples.passages[number][start:end]
