"""Parts of a labelled file: folds for cross-validation, and a few examples per class."""

from collections.abc import Sequence

import numpy as np


def fold_numbers(
    num_examples: int, num_folds: int, seed: int, classes: Sequence[str] | None = None
) -> np.ndarray:
    """The number of the fold that holds each example out, pure in the arguments.

    The sizes of two folds differ by one example at most, and so does, for each class,
    the number of its examples in two folds.

    Args:
        num_folds: k; folds are numbered from 0.
        classes: class of each example. `None` draws without regard to classes.

    Returns:
        int [examples], in [0, k).

    Raises:
        ValueError: there are fewer examples than folds.

    Source: Kohavi 1995, "A study of cross-validation and bootstrap for accuracy
    estimation and model selection", section 3.2.
    """
    if num_examples < num_folds:
        raise ValueError(
            f"--folds {num_folds} needs as many examples, and the file holds "
            f"{num_examples}; use fewer folds."
        )
    order = np.random.default_rng(seed).permutation(num_examples)
    if classes is not None:
        order = order[np.argsort(np.array(classes)[order], kind="stable")]
    folds = np.empty(num_examples, np.int64)
    folds[order] = np.arange(num_examples) % num_folds
    return folds


def shot_numbers(classes: Sequence[str], shots: int, seed: int) -> np.ndarray:
    """Numbers of `shots` random examples of each class, ascending; pure in the arguments.

    A draw of fewer shots is part of the draw of more shots with the same seed.

    Raises:
        ValueError: a class has fewer examples.
    """
    names, of = np.unique(np.array(classes), return_inverse=True)
    counts = np.bincount(of)
    if counts.min() < shots:
        raise ValueError(
            f"--shots {shots} needs as many examples of each class, and "
            f"{str(names[counts.argmin()])!r} has {counts.min()}; use fewer shots."
        )
    order = np.random.default_rng(seed).permutation(of.size)
    drawn = [order[of[order] == number][:shots] for number in range(names.size)]
    return np.sort(np.concatenate(drawn))
