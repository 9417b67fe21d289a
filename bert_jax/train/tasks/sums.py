"""Scores from sums over examples, so that thousands of resamples are scored quickly."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Sums(NamedTuple):
    """Scores that depend on their examples through sums alone."""

    values: np.ndarray
    """float64 [examples, K], what each example adds."""
    scores: Callable[[np.ndarray], dict[str, np.ndarray]]
    """Turns sums [..., K] over examples into scores [...] by name."""


def means(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Sums:
    """For scores that are weighted means of a value per example, such as exact match.

    Args:
        parts: of each score, values and weights [examples].
    """
    columns = [
        x for values, weights in parts.values() for x in (values * weights, weights)
    ]

    def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: ratio(sums[..., 2 * n], sums[..., 2 * n + 1])
            for n, name in enumerate(parts)
        }

    return Sums(np.stack(columns, axis=1).astype(np.float64), scores)


def confusions(truth: np.ndarray, found: np.ndarray, num_classes: int) -> Sums:
    """Accuracy, F1 scores and Matthews correlation, as `classification_scores` has them.

    Args:
        truth, found: int [examples], numbers of classes.
    """
    shape = (num_classes, num_classes)
    values = np.zeros((truth.size, num_classes * num_classes))
    values[np.arange(truth.size), truth * num_classes + found] = 1.0

    def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
        counts = sums.reshape(*sums.shape[:-1], *shape)
        right = np.diagonal(counts, axis1=-2, axis2=-1)
        true, said = counts.sum(axis=-1), counts.sum(axis=-2)
        total = counts.sum(axis=(-2, -1))
        f1 = ratio(2.0 * right, true + said)
        # A class that neither occurs nor is predicted has no F1.
        macro = f1.sum(axis=-1) / ((true + said) > 0).sum(axis=-1)
        together = right.sum(axis=-1) * total - (true * said).sum(axis=-1)
        spread_true = total**2 - (true**2).sum(axis=-1)
        spread_said = total**2 - (said**2).sum(axis=-1)
        matthews = ratio(together, np.sqrt(spread_true * spread_said))
        found = {
            "accuracy": right.sum(axis=-1) / total,
            "macro_f1": macro,
            "matthews": matthews,
        }
        return found | ({"f1": f1[..., 1]} if num_classes == 2 else {})

    return Sums(values, scores)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
