"""Scores as functions of how often each example counts.

Thousands of resamples of the examples are scored quickly in this form.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_ROUNDING = 1e-13

ByCounts = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Turns counts, float64 [resamples, examples], into scores [resamples] by name."""


def scores_of_all(by_counts: ByCounts, num_examples: int) -> dict[str, float]:
    """The scores where every example counts once."""
    found = by_counts(np.ones((1, num_examples)))
    return {name: float(score) for name, [score] in found.items()}


def of_sums(
    values: np.ndarray, scores: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> ByCounts:
    """For scores that depend on their examples through sums alone.

    Args:
        values: float64 [examples, K], what each example adds.
        scores: turns sums [..., K] over examples into scores [...] by name.
    """
    return lambda counts: scores(counts @ values)


def means(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> ByCounts:
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

    return of_sums(np.stack(columns, axis=1).astype(np.float64), scores)


class Tallies(NamedTuple):
    """How often each class, or each label, was predicted rightly, is true, was predicted."""

    right: np.ndarray
    """float64 [..., C], as the others."""
    true: np.ndarray
    said: np.ndarray

    def f1(self) -> np.ndarray:
        """[..., C]; 0 for a class that neither occurs nor is predicted."""
        return ratio(2.0 * self.right, self.true + self.said)


def tallies(truth: np.ndarray, found: np.ndarray) -> Tallies:
    """Of each example by itself, float64 [examples, C].

    Args:
        truth, found: bool [examples, C].
    """
    return Tallies(*(x.astype(np.float64) for x in (truth & found, truth, found)))


def class_scores(of: Tallies) -> dict[str, np.ndarray]:
    """Accuracy, mean F1, Matthews correlation, and F1 of the second of two classes.

    A class that neither occurs nor is predicted does not count in the mean. The
    correlation is 0 where labels or predictions have only one class.
    """
    num_right, total = of.right.sum(axis=-1), of.true.sum(axis=-1)
    f1, there = of.f1(), (of.true + of.said) > 0
    together = num_right * total - (of.true * of.said).sum(axis=-1)
    spread_true = total**2 - (of.true**2).sum(axis=-1)
    spread_said = total**2 - (of.said**2).sum(axis=-1)
    found = {
        "accuracy": num_right / total,
        "macro_f1": f1.sum(axis=-1) / there.sum(axis=-1),
        "matthews": ratio(together, np.sqrt(spread_true * spread_said)),
    }
    return found | ({"f1": f1[..., 1]} if f1.shape[-1] == 2 else {})


def one_hot(numbers: np.ndarray, num_classes: int) -> np.ndarray:
    """bool [examples, C] of the numbers of classes, int [examples]."""
    return numbers[:, None] == np.arange(num_classes)


def confusions(truth: np.ndarray, found: np.ndarray, num_classes: int) -> ByCounts:
    """The `class_scores`.

    Args:
        truth, found: int [examples], numbers of classes.
    """
    sets = (one_hot(numbers, num_classes) for numbers in (truth, found))
    values = np.concatenate(tallies(*sets), axis=1)
    return of_sums(values, lambda sums: class_scores(_split(sums)))


def _split(sums: np.ndarray) -> Tallies:
    return Tallies(*np.split(sums, 3, axis=-1))


def label_sets(truth: np.ndarray, found: np.ndarray) -> ByCounts:
    """Micro-F1, macro-F1 and the share of exact sets, as `multilabel_scores` has them.

    Args:
        truth, found: bool [examples, C].
    """
    exact = (truth == found).all(axis=1)
    values = np.column_stack([*tallies(truth, found), exact, np.ones(exact.size)])

    def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
        each = _split(sums[..., :-2])
        all_of = Tallies(*(x.sum(axis=-1) for x in each))
        return {
            "micro_f1": all_of.f1(),
            "macro_f1": each.f1().mean(axis=-1),
            "subset_accuracy": sums[..., -2] / sums[..., -1],
        }

    return of_sums(values, scores)


def correlations(x: np.ndarray, y: np.ndarray) -> ByCounts:
    """Pearson's and Spearman's correlation, 0 where one of both is constant.

    Args:
        x, y: float64 [examples].
    """
    # Sums of values far from 0 would lose digits.
    x, y = x - x.mean(), y - y.mean()
    rank_x, rank_y = _ranks(x), _ranks(y)

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "pearson": _correlation(x, y, counts),
            "spearman": _correlation(rank_x(counts), rank_y(counts), counts),
        }

    return scores


def _ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The rank of each example among those that count; equal values share the middle one."""
    order = np.argsort(values, kind="stable")
    first = np.concatenate([[True], np.diff(values[order]) > 0.0])
    starts, place = np.flatnonzero(first), np.empty(values.size, np.intp)
    place[order] = np.cumsum(first) - 1

    def ranks(counts: np.ndarray) -> np.ndarray:
        of_value = np.add.reduceat(counts[:, order], starts, axis=1)
        return (np.cumsum(of_value, axis=1) - (of_value - 1.0) / 2.0)[:, place]

    return ranks


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    shares = counts / counts.sum(axis=1, keepdims=True)
    x, y = (z - (shares * z).sum(axis=1, keepdims=True) for z in (x, y))
    spreads = [(shares * z * z).sum(axis=1) for z in (x, y)]
    # What rounding leaves of values that are equal is no spread.
    constant = [
        spread < _ROUNDING**2 * np.square(z).max(axis=1)
        for spread, z in zip(spreads, (x, y), strict=True)
    ]
    norms = np.sqrt(spreads[0] * spreads[1])
    found = ratio((shares * x * y).sum(axis=1), norms)
    return np.where(constant[0] | constant[1], 0.0, found)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
