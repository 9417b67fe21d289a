"""Folds of a labelled file, for cross-validation."""

from collections.abc import Sequence

import numpy as np

from bert_jax.data.labelled.draws import stratified_groups
from bert_jax.data.labelled.examples import Examples


def fold_numbers(
    examples: Examples,
    num_folds: int,
    seed: int,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """The number of the fold that holds each example out, pure in the arguments.

    What must stay together (`Examples.together`) is in one fold. Without such groups, the
    sizes of two folds differ by one example at most, and so does, for each class, the
    number of its examples in two folds.

    Args:
        num_folds: k; folds are numbered from 0.
        classes: class of each example. `None` draws without regard to classes.

    Returns:
        int [examples], in [0, k).

    Raises:
        ValueError: there are fewer groups than folds.

    Source: Kohavi 1995, "A study of cross-validation and bootstrap for accuracy
    estimation and model selection", section 3.2.
    """
    groups = stratified_groups(examples, seed, classes)
    if len(groups) < num_folds:
        raise ValueError(
            f"--folds {num_folds} needs as many examples, or groups of examples that stay "
            f"together, and {examples.reading.path} holds {len(groups)}; use fewer folds."
        )
    if classes is not None:
        groups.sort(key=lambda group: classes[group[0]])
    folds = np.empty(len(examples), np.int64)
    for number, group in enumerate(groups):
        folds[group] = number % num_folds
    return folds
