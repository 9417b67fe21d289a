"""Text classification: one class for each text or pair of texts."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import Examples
from bert_jax.data.labelled.labels import (
    many_classes_warning,
    numbers_of,
    ordered,
    say_counts,
    spelling_warnings,
)
from bert_jax.data.labelled.texts import LabelledTexts, read_texts
from bert_jax.train.losses import Mean, cross_entropy, weighted
from bert_jax.train.tasks.by_counts import (
    ByCounts,
    confusions,
    one_hot,
    scores_of_all,
)
from bert_jax.train.tasks.calibration import calibration
from bert_jax.train.tasks.class_weights import class_weights
from bert_jax.train.tasks.intervals import wilson
from bert_jax.train.tasks.label_scores import label_scores
from bert_jax.train.tasks.task import Judged, Metric, cross_entropies, log_softmax
from bert_jax.train.tasks.text import TextTask, of_examples, tfidf


class Classification(TextTask):
    """A class for each text, over the pooled [CLS] (Devlin et al. 2018, section 4.1)."""

    name = "classification"
    problem_type = "single_label_classification"
    settings = TextTask.settings | {"class_weights", "label_smoothing"}
    metrics: tuple[Metric, ...] = (
        Metric("accuracy", "accuracy", ".1%", interval=wilson),
        Metric("macro_f1", "macro-F1"),
        Metric("f1", "F1"),
        Metric("matthews", "Matthews"),
    )

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> LabelledTexts:
        return read_texts(path, cfg, split)

    def outputs(self, train: LabelledTexts) -> tuple[str, ...]:
        return ordered(train.labels, path=train.reading.path)

    def classes(self, examples: LabelledTexts) -> Sequence[str]:
        return examples.labels

    def counts(self, examples: LabelledTexts, outputs: Sequence[str]) -> str:
        return f"classes: {say_counts(examples.labels, outputs)}"

    def warnings(self, examples: LabelledTexts) -> list[str]:
        warnings = many_classes_warning(examples.labels)
        return warnings + spelling_warnings(examples.labels)

    def targets(self, examples: LabelledTexts, outputs: Sequence[str]) -> np.ndarray:
        return numbers_of(examples.labels, outputs, place=examples.place)

    def example_weights(
        self, examples: LabelledTexts, outputs: Sequence[str]
    ) -> np.ndarray | None:
        """The class's weight of each example, float32 [examples]."""
        if not self.cfg.class_weights:
            return None
        numbers = numbers_of(examples.labels, outputs)
        return class_weights(self.cfg.class_weights, numbers, outputs)[numbers]

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Mean cross-entropy of the labelled rows, in nats, with smoothed labels if the
        run has them. The accuracy counts all rows the same.

        Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
        """
        share = self.cfg.label_smoothing
        loss, _ = cross_entropy(logits, batch.labels, batch.weights)
        if share:
            even = -jax.nn.log_softmax(logits).mean(axis=-1)
            spread = weighted(even, batch.weights)
            loss = Mean((1.0 - share) * loss.sum + share * spread.sum, loss.weight)
        counted = (batch.weights > 0).astype(np.float32)
        _, accuracy = cross_entropy(logits, batch.labels, counted)
        return {"loss": loss, "accuracy": accuracy}

    def fresh_loss(self, outputs: Sequence[str]) -> float:
        return math.log(len(outputs))

    def scores(self, judged: Judged) -> dict[str, float]:
        return classification_scores(*of_examples(judged))

    def by_counts(self, judged: Judged) -> ByCounts:
        logits, labels = of_examples(judged)
        return confusions(labels, logits.argmax(axis=1), len(judged.outputs))

    def constant_scores(self, examples: LabelledTexts) -> dict[str, float]:
        _, counts = np.unique(np.array(examples.labels), return_counts=True)
        return {"accuracy": float(counts.max() / len(examples))}

    def details(self, judged: Judged) -> dict[str, Any]:
        """The confusion matrix, scores of each class, and the calibration.

        `confusion` has counts by true class (rows) and predicted class.
        """
        logits, truth = of_examples(judged)
        outputs = judged.outputs
        found = logits.argmax(axis=1)
        counts = np.zeros((len(outputs), len(outputs)), np.int64)
        np.add.at(counts, (truth, found), 1)
        of_truth, of_found = (one_hot(x, len(outputs)) for x in (truth, found))
        return {
            "confusion": counts.tolist(),
            "per_label": label_scores(of_truth, of_found, outputs),
            "calibration": calibration(logits, truth),
        }

    def example_losses(self, judged: Judged) -> np.ndarray:
        """Cross-entropy of each example, in nats."""
        logits, labels = of_examples(judged)
        return cross_entropies(logits.astype(np.float64), labels)

    def baselines(
        self, train: Examples, held_out: Examples, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """Scores of the majority class, and of logistic regression on TF-IDF.

        The majority class is that of the held-out examples, so it is the best constant
        answer. TF-IDF takes words and pairs of words with sublinear counts; logistic
        regression has scikit-learn's default regularisation. Nothing is tuned on the
        held-out examples.
        """
        from sklearn.linear_model import LogisticRegression

        assert isinstance(train, LabelledTexts)
        assert isinstance(held_out, LabelledTexts)
        truth = numbers_of(held_out.labels, outputs)
        features, held_out_features = tfidf(train, held_out)
        model = LogisticRegression(max_iter=1_000)
        model.fit(features, numbers_of(train.labels, outputs))
        found = model.predict(held_out_features)
        majority = np.full_like(truth, np.bincount(truth).argmax())
        return {
            "majority": _scores_of(truth, majority, len(outputs)),
            "tfidf_logistic_regression": _scores_of(truth, found, len(outputs)),
        }

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        logits, _ = of_examples(judged)
        probs = np.exp(log_softmax(logits.astype(np.float64)))
        return [
            {
                "label": judged.outputs[row.argmax()],
                "probabilities": dict(zip(judged.outputs, row.tolist(), strict=True)),
            }
            for row in probs
        ]

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        ranked = sorted(prediction["probabilities"].items(), key=lambda x: -x[1])
        return "  ".join(f"{name} {share:.1%}" for name, share in ranked[:top])


def classification_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, F1, Matthews correlation, and mean cross-entropy in nats as `loss`.

    `macro_f1` is the mean of the F1 scores of all classes. With two classes, `f1` is the
    score of the second class in sorted order, such as "1" of "0" and "1"; this is the
    positive class of MRPC. `matthews` is 0 if labels or predictions have only one class.

    Args:
        logits: float32 [examples, C].
        labels: int32 [examples].

    Source: Wang et al. 2019, "GLUE", section 3; Gorodkin 2004 for more than two classes.
    """
    scores = _scores_of(labels, logits.argmax(axis=1), logits.shape[1])
    return {**scores, "loss": float(cross_entropies(logits, labels).mean())}


def _scores_of(
    truth: np.ndarray, found: np.ndarray, num_classes: int
) -> dict[str, float]:
    return scores_of_all(confusions(truth, found, num_classes), truth.size)
