"""Whether a classifier's probabilities are true: its calibration on held-out examples."""

from typing import Any

import numpy as np

from bert_jax.train.tasks.task import cross_entropies, log_softmax

_NUM_BINS = 15
_TEMPERATURES = (0.05, 20.0)


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How sure a classifier is of its answers, beside how often they are right.

    The temperature is fitted on the same examples, so the numbers that follow from it
    flatter a little.

    Args:
        logits: float32 [examples, C].
        labels: int32 [examples].

    Returns:
        `bins`, a list of [number of examples, their mean confidence, the share of right
        answers] for each of 15 equal steps of confidence that has any; `ece`, the expected
        calibration error; `temperature`, which the logits should be divided by so that
        the cross-entropy is least; and `ece_at_temperature`. Confidence is the
        probability of the answer, from 0 to 1.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", sections 2 and 4.2.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(cross_entropies(logits / np.exp(log_temperature), labels).mean())

    fitted = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    temperature = float(np.exp(fitted.x))
    bins = _bins(logits, labels)
    return {
        "bins": bins,
        "ece": _error(bins),
        "temperature": temperature,
        "ece_at_temperature": _error(_bins(logits / temperature, labels)),
    }


def _bins(logits: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    probs = np.exp(log_softmax(logits))
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    of = np.minimum(np.ceil(confidence * _NUM_BINS), _NUM_BINS)  # (0, 1/15], ...
    return [
        [int(own.sum()), float(confidence[own].mean()), float(right[own].mean())]
        for own in (of == number for number in np.unique(of))
    ]


def _error(bins: list[list[float]]) -> float:
    """The mean distance of confidence and accuracy, weighted by the examples."""
    counts, confidence, accuracy = np.array(bins).T
    return float((counts * np.abs(confidence - accuracy)).sum() / counts.sum())
