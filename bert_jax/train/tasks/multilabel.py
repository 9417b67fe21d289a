"""Multi-label classification: any number of labels for each text or pair of texts."""

import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import Examples
from bert_jax.data.labelled.label_sets import rarest
from bert_jax.data.labelled.labels import (
    numbers_of,
    ordered,
    say_counts,
    spelling_warnings,
)
from bert_jax.data.labelled.texts import LabelledTexts, read_texts
from bert_jax.train.losses import Mean, weighted
from bert_jax.train.tasks.by_counts import ByCounts, label_sets, scores_of_all
from bert_jax.train.tasks.intervals import wilson
from bert_jax.train.tasks.label_scores import label_scores
from bert_jax.train.tasks.task import Judged, Metric
from bert_jax.train.tasks.text import TextTask, of_examples, tfidf


class MultiLabel(TextTask):
    """Labels that do not exclude each other. Each has a logit and a sigmoid of its own, and
    a text has the labels whose probability is above 0.5."""

    name = "multilabel"
    problem_type = "multi_label_classification"
    metrics = (
        Metric("micro_f1", "micro-F1"),
        Metric("macro_f1", "macro-F1"),
        Metric("subset_accuracy", "all labels right", ".1%", interval=wilson),
    )

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> LabelledTexts:
        return read_texts(path, cfg, split, several=True)

    def outputs(self, train: LabelledTexts) -> tuple[str, ...]:
        """The labels that occur.

        Raises:
            ValueError: fewer than two, or two that are the same number.
        """
        labels = _all_labels(train)
        if not labels:
            raise ValueError(
                f"No text of {train.reading.path} has a label; expected labels to learn. "
                "Set --label, or --label-columns."
            )
        return ordered(labels, path=train.reading.path)

    def classes(self, examples: LabelledTexts) -> Sequence[str]:
        return rarest(examples.labels)

    def counts(self, examples: LabelledTexts, outputs: Sequence[str]) -> str:
        num_none = sum(not labels for labels in examples.labels)
        said = say_counts(_all_labels(examples), outputs)
        return f"labels: {said}; {num_none:,} texts have none"

    def warnings(self, examples: LabelledTexts) -> list[str]:
        return spelling_warnings(_all_labels(examples))

    def targets(self, examples: LabelledTexts, outputs: Sequence[str]) -> np.ndarray:
        """float32 [examples, C], 1 where the text has the label."""
        sizes = [len(labels) for labels in examples.labels]
        rows = np.repeat(np.arange(len(examples)), sizes)
        found = np.zeros((len(examples), len(outputs)), np.float32)
        numbers = numbers_of(
            _all_labels(examples),
            outputs,
            place=lambda number: examples.place(int(rows[number])),
        )
        found[rows, numbers] = 1.0
        return found

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Mean binary cross-entropy of all labels of the labelled rows, in nats."""
        losses_BC = optax.sigmoid_binary_cross_entropy(
            logits, jnp.asarray(batch.labels)
        )
        return {"loss": weighted(losses_BC.mean(axis=1), batch.weights)}

    def scores(self, judged: Judged) -> dict[str, float]:
        return multilabel_scores(*of_examples(judged))

    def by_counts(self, judged: Judged) -> ByCounts:
        logits, labels = of_examples(judged)
        return label_sets(labels > 0, logits > 0)

    def constant_scores(self, examples: LabelledTexts) -> dict[str, float]:
        """The best score that the same labels for all texts can have, for each metric."""
        truth = _indicators(examples)
        order = np.argsort(-truth.sum(axis=0), kind="stable")
        num_true = truth.sum()
        micro_f1 = 0.0
        for count in range(1, order.size + 1):  # the most frequent labels
            num_right = truth[:, order[:count]].sum()
            micro_f1 = max(micro_f1, 2 * num_right / (num_true + count * len(examples)))
        sets = Counter(frozenset(labels) for labels in examples.labels)
        return {
            "micro_f1": float(micro_f1),
            "subset_accuracy": max(sets.values()) / len(examples),
        }

    def details(self, judged: Judged) -> dict[str, Any]:
        """Scores of each label."""
        logits, labels = of_examples(judged)
        return {"per_label": label_scores(labels > 0, logits > 0, judged.outputs)}

    def example_losses(self, judged: Judged) -> np.ndarray:
        """Mean cross-entropy over the labels of each example, in nats."""
        return _losses(*of_examples(judged)).mean(axis=1)

    def baselines(
        self, train: Examples, held_out: Examples, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """Scores of one logistic regression on TF-IDF for each label.

        It has scikit-learn's default regularisation. Nothing is tuned on the held-out
        examples.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        assert isinstance(train, LabelledTexts)
        assert isinstance(held_out, LabelledTexts)
        features, held_out_features = tfidf(train, held_out)
        model = OneVsRestClassifier(LogisticRegression(max_iter=1_000))
        model.fit(features, self.targets(train, outputs))
        logits = model.decision_function(held_out_features)
        truth = self.targets(held_out, outputs)
        return {"tfidf_logistic_regression": multilabel_scores(logits, truth)}

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        logits, _ = of_examples(judged)
        outputs = judged.outputs
        probs = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
        return [
            {
                "labels": [
                    name for name, p in zip(outputs, row, strict=True) if p > 0.5
                ],
                "probabilities": dict(zip(outputs, row.tolist(), strict=True)),
            }
            for row in probs
        ]

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        ranked = sorted(prediction["probabilities"].items(), key=lambda x: -x[1])
        shown = "  ".join(f"{name} {share:.1%}" for name, share in ranked[:top])
        return f"{', '.join(prediction['labels']) or 'no label'} ({shown})"


def multilabel_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Micro-F1, macro-F1, the share of texts with all labels right, and the mean loss.

    A label that no text has and that is never predicted has an F1 of 0, as in
    scikit-learn.

    Args:
        logits: float32 [examples, C]; above 0, a label is predicted.
        labels: float32 [examples, C], 0 or 1.

    Source: Sorower 2010, "A literature survey on algorithms for multi-label learning".
    """
    scores = scores_of_all(label_sets(labels > 0, logits > 0), len(labels))
    return {**scores, "loss": float(_losses(logits, labels).mean())}


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each example and label, float64."""
    return np.logaddexp(0.0, logits.astype(np.float64)) - labels * logits


def _all_labels(examples: LabelledTexts) -> list[str]:
    return [label for labels in examples.labels for label in labels]


def _indicators(examples: LabelledTexts) -> np.ndarray:
    """bool [examples, labels that occur]."""
    names = sorted(set(_all_labels(examples)))
    return np.array([[name in labels for name in names] for labels in examples.labels])
