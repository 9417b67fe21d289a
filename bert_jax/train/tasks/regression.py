"""Text regression: one number for each text or pair of texts, such as a similarity."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.texts import LabelledTexts, read_texts
from bert_jax.train.losses import Mean, weighted
from bert_jax.train.tasks.by_counts import (
    ByCounts,
    correlations,
    means,
    scores_of_all,
)
from bert_jax.train.tasks.intervals import fisher
from bert_jax.train.tasks.task import Judged, Metric
from bert_jax.train.tasks.text import TextTask, of_examples


class Regression(TextTask):
    """A number for each text: the head's only logit, trained with the squared error."""

    name = "regression"
    problem_type = "regression"
    metrics = (
        Metric("pearson", "Pearson", interval=fisher),
        Metric("spearman", "Spearman"),
        Metric("mse", "MSE", larger_is_better=False),
    )

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> LabelledTexts:
        return read_texts(path, cfg, split, numbers=True)

    def outputs(self, train: LabelledTexts) -> tuple[str, ...]:
        """The number.

        Raises:
            ValueError: all examples have the same.
        """
        scores = _numbers(train)
        if len(train) > 1 and (scores == scores[0]).all():
            raise ValueError(
                f"{train.reading.path or 'The training file'} has one score only, "
                f"{scores[0]:g}, so there is nothing to learn; set --label, or give more "
                "examples."
            )
        return ("score",)

    def counts(self, examples: LabelledTexts, outputs: Sequence[str]) -> str:
        numbers = _numbers(examples)
        return f"scores from {numbers.min():g} to {numbers.max():g}, mean {numbers.mean():.4g}"

    def targets(self, examples: LabelledTexts, outputs: Sequence[str]) -> np.ndarray:
        return _numbers(examples).astype(np.float32)

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Mean squared error of the labelled rows, whose labels are float32."""
        return {
            "loss": weighted(jnp.square(logits[:, 0] - batch.labels), batch.weights)
        }

    def scores(self, judged: Judged) -> dict[str, float]:
        logits, labels = of_examples(judged)
        return regression_scores(logits[:, 0], labels)

    def by_counts(self, judged: Judged) -> ByCounts:
        logits, labels = of_examples(judged)
        found, labels = logits[:, 0].astype(np.float64), labels.astype(np.float64)
        correlated = correlations(found, labels)
        errors = means({"mse": (np.square(found - labels), np.ones(found.size))})
        return lambda counts: {**correlated(counts), **errors(counts)}

    def example_losses(self, judged: Judged) -> np.ndarray:
        """Squared error of each example."""
        logits, labels = of_examples(judged)
        return np.square(logits[:, 0].astype(np.float64) - labels)

    def constant_scores(self, examples: LabelledTexts) -> dict[str, float]:
        return {"mse": float(_numbers(examples).var())}

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        logits, _ = of_examples(judged)
        return [{"score": float(score)} for score in logits[:, 0]]

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        return f"score {prediction['score']:.3f}"


def _numbers(examples: LabelledTexts) -> np.ndarray:
    """The labels as float64, rounded to float32 as in the loss and the scores."""
    return np.array(examples.labels, np.float64).astype(np.float32).astype(np.float64)


def regression_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Both correlations, and the mean squared error as `mse` and as `loss`.

    Args:
        predictions: float32 [examples].
        labels: float32 [examples].
    """
    x, y = predictions.astype(np.float64), labels.astype(np.float64)
    error = float(np.square(x - y).mean())
    return {**correlation_scores(x, y), "mse": error, "loss": error}


def correlation_scores(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """`pearson` and `spearman` of two float64 vectors, 0 if one of them is constant."""
    return scores_of_all(correlations(x, y), x.size)
