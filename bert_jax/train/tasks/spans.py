"""Extractive question answering: finds the span of a passage that answers a question."""

import pathlib
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig, TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.questions import (
    Questions,
    encode_questions,
    read_questions,
)
from bert_jax.data.labelled.unlabelled import Unlabelled, read_lines
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model import question_answering
from bert_jax.model.rows import MASKED_SCORE
from bert_jax.train.losses import Mean, cross_entropy
from bert_jax.train.tasks.intervals import wilson
from bert_jax.train.tasks.sums import Sums, means
from bert_jax.train.tasks.task import Metric, Task, log_softmax

_MAX_ANSWER_TOKENS = 30
_ENDS = ("start", "end")


class Spans(Task):
    """The first and the last token of an answer.

    Source: Devlin et al. 2018, sections 4.2 and 4.3.
    """

    name = "spans"
    head = "spans"
    apply = staticmethod(question_answering.apply)
    pooled = False
    metrics = (
        Metric("f1", "F1"),
        Metric("exact_match", "exact match", interval=wilson),
    )

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> Questions:
        cfg.refuse_columns()
        return read_questions(path, cfg.encoding)

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        """A .json in the form of SQuAD; a .txt has a question, a tab and a passage a line."""
        cfg.refuse_columns()
        if path.suffix.lower() == ".txt":
            return read_lines(path, cfg)
        found = read_questions(path, cfg.encoding, answered=False)
        texts = list(zip(found.questions, found.passages, strict=True))
        return Unlabelled(texts, list(found.ids), how=found.reading.how)

    def counts(self, examples: Questions, outputs: Sequence[str]) -> str:
        num_none = sum(not answers for answers in examples.answers)
        return f"{len(set(examples.passages)):,} passages, {num_none:,} without answer"

    def num_texts(self, cfg: TaskConfig) -> int:
        """2: a question and a passage."""
        return 2

    def unlabelled(self, texts: Sequence[Text]) -> Questions:
        questions, passages = zip(*texts, strict=True) if texts else ((), ())
        return Questions(questions, passages, ((),) * len(texts))

    def outputs(self, train: Questions) -> tuple[str, ...]:
        return _ENDS

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: Questions,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        return encode_questions(tokenizer, examples, sequence_length)

    @staticmethod
    def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> dict:
        return question_answering.init_params(cfg, key)

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        # Twice the number of rows, so that the sum of both losses is the mean of the ends.
        weight = 2.0 * batch.weights.sum()
        return {f"{end}_loss": weight for end in _ENDS}

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
        for number, end in enumerate(_ENDS):
            means[f"{end}_loss"], means[f"{end}_accuracy"] = cross_entropy(
                logits[..., number], batch.labels[:, number], batch.weights
            )
        return means

    def scores(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Questions,
        outputs: Sequence[str],
    ) -> dict[str, float]:
        """Exact match and F1 of the answers' words, as in the official script.

        If some questions have no answer in their passage, the model may say so: it does
        if [CLS] scores higher than every span.

        Source: Rajpurkar et al. 2016, section 6.1; Rajpurkar et al. 2018.
        """
        values = _values(logits, encoded, examples)
        real = encoded.input_mask[:, :, None] > 0
        log_probs = log_softmax(
            np.where(real, logits, MASKED_SCORE).astype(np.float64).swapaxes(1, 2)
        )
        chosen = np.take_along_axis(log_probs, encoded.labels[:, :, None], axis=2)
        return {
            **{name: float(x.mean()) for name, x in values.items()},
            "loss": float(-chosen.mean()),
        }

    def sums(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Questions,
        outputs: Sequence[str],
    ) -> Sums:
        return means(_values(logits, encoded, examples))

    def constant_scores(self, examples: Questions) -> dict[str, float]:
        """The scores of saying, for every question, that the passage has no answer."""
        share = sum(not answers for answers in examples.answers) / len(examples)
        return {"exact_match": share, "f1": share}

    def predictions(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Questions,
        outputs: Sequence[str],
    ) -> list[dict[str, Any]]:
        return [
            {
                "answer": best.text,
                "score": best.score,
                "no_answer_score": best.none_score,
            }
            for best in _best_spans(logits, encoded, examples)
        ]

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        return str(prediction["answer"])

    def say_line(self, line: Mapping[str, float]) -> str:
        if "start_accuracy" not in line:
            return super().say_line(line)
        return (
            f"{super().say_line(line)}  start {line['start_accuracy']:.1%}  end "
            f"{line['end_accuracy']:.1%}"
        )


def _values(
    logits: np.ndarray, encoded: EncodedExamples, examples: Questions
) -> dict[str, np.ndarray]:
    """F1 and exact match of each question, the largest over its answers."""
    may_be_none = not all(examples.answers)
    found = [
        "" if may_be_none and best.none_score > best.score else best.text
        for best in _best_spans(logits, encoded, examples)
    ]
    pairs = list(zip(found, examples.answers, strict=True))

    def values_of(score: Callable[[str, str], float]) -> np.ndarray:
        best = [
            max(score(text, answer) for answer in [x.text for x in answers] or [""])
            for text, answers in pairs
        ]
        return np.array(best)

    return {"f1": values_of(word_f1), "exact_match": values_of(exact_match)}


class _Best(NamedTuple):
    text: str
    score: float
    """Sum of the logits of both ends."""
    none_score: float
    """Sum of both logits of [CLS]; the smallest over the rows of the passage."""


def _best_spans(
    logits: np.ndarray, encoded: EncodedExamples, examples: Questions
) -> list[_Best]:
    """The most probable span of each passage, over all rows of the passage."""
    assert encoded.word is not None
    best = [_Best("", -np.inf, np.inf)] * len(examples)
    for row, example in enumerate(encoded.example):
        (places,) = np.nonzero(encoded.word[row] >= 0)
        none_score = float(logits[row, 0].sum())
        before = best[example]
        before = before._replace(none_score=min(before.none_score, none_score))
        best[example] = before
        if not places.size:
            continue
        starts, ends = logits[row, places].astype(np.float64).T
        sums = starts[:, None] + ends[None, :]
        length = np.arange(places.size)[None, :] - np.arange(places.size)[:, None]
        sums[(length < 0) | (length >= _MAX_ANSWER_TOKENS)] = -np.inf
        first, last = np.unravel_index(sums.argmax(), sums.shape)
        if sums[first, last] > before.score:
            words = encoded.word[row, places[[first, last]]]
            text = examples.text_of(int(example), int(words[0]), int(words[1]))
            best[example] = before._replace(text=text, score=float(sums[first, last]))
    return best


def normalised(answer: str) -> str:
    """The answer in lower case, without punctuation, articles and repeated blanks."""
    plain = "".join(x for x in answer.lower() if x not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(found: str, answer: str) -> float:
    """1 if both answers are equal after normalising, else 0."""
    return float(normalised(found) == normalised(answer))


def word_f1(found: str, answer: str) -> float:
    """F1 of the words of two normalised answers.

    If an answer has no words, it is 1 if the other has none either, else 0.
    """
    a, b = normalised(found).split(), normalised(answer).split()
    if not a or not b:
        return float(a == b)
    shared = (Counter(a) & Counter(b)).total()
    return 2.0 * shared / (len(a) + len(b))
