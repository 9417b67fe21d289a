"""How much an example of each class counts in the loss."""

from collections.abc import Sequence

import numpy as np

from bert_jax.data.labelled.labels import is_number

_LEAST, _MOST = 1e-6, 1e6  # sums of others do not fit into float32


def class_weights(
    given: Sequence[str], numbers: np.ndarray, outputs: Sequence[str]
) -> np.ndarray:
    """The weights that `FinetuneConfig.class_weights` gives, float32 [classes].

    The weights of "balanced" are n / (C n_c) for n examples of C classes, n_c of them of
    this class, as in scikit-learn. Their mean over the examples is 1.

    Args:
        given: "balanced" alone, or entries LABEL=WEIGHT.
        numbers: int [examples], class of each training example.
        outputs: names of the classes.

    Raises:
        ValueError: an entry is none of these, no example has the class, or a class has
            two weights.
    """
    counts = np.bincount(numbers, minlength=len(outputs))
    if tuple(given) == ("balanced",):
        found = numbers.size / (len(outputs) * np.maximum(counts, 1))
        return found.astype(np.float32)
    weights: dict[str, float] = {}
    for entry in given:
        label, sign, weight = entry.rpartition("=")
        if not (sign and is_number(weight) and _LEAST <= float(weight) <= _MOST):
            raise ValueError(
                f"FinetuneConfig.class_weights has {entry!r}; expected the word balanced "
                f"alone, or entries such as yes=2.5, with a weight from {_LEAST:g} to "
                f"{_MOST:g}."
            )
        if label not in outputs:
            raise ValueError(
                f"FinetuneConfig.class_weights gives a weight to {label!r}, which is no "
                f"class of the training file; its classes are {', '.join(outputs)}."
            )
        if label in weights:
            raise ValueError(
                f"FinetuneConfig.class_weights gives two weights to {label!r}; give one."
            )
        weights[label] = float(weight)
    return np.array([weights.get(name, 1.0) for name in outputs], np.float32)


def say_weights(weights: np.ndarray, examples: Sequence[str]) -> str:
    """The weight of each class, such as `no 0.67, yes 2.00`.

    Args:
        weights: float32 [examples].
        examples: class of each example.
    """
    of = dict(zip(examples, weights.tolist(), strict=True))
    return ", ".join(f"{name} {of[name]:.3g}" for name in sorted(of))
