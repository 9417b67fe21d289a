"""Random choices among labelled examples: a share to judge on, folds, fewer to train on.

Every function is pure in the examples and the seed. Examples that are chosen stay in the
order of their file.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from bert_jax.data.labelled.examples import Examples, places_in_class

E = TypeVar("E", bound=Examples)


def stratified_groups(
    examples: Examples, seed: int, classes: Sequence[str] | None = None
) -> list[np.ndarray]:
    """All examples in a random order of which each class has its share from the start.

    So any tenth of it, one behind the other, is a stratified tenth, which makes folds too.
    What must stay together (`Examples.together`) is one group, which counts for the class
    of its first example. The only group of a class comes last.

    Args:
        classes: class of each example. Default: all are of one.

    Returns:
        int [size of the group], numbers of examples, for each group.
    """
    members: dict[object, list[int]] = {}
    for number, key in enumerate(examples.together()):
        members.setdefault(key, []).append(number)
    groups = [np.array(group) for group in members.values()]
    order = np.random.default_rng(seed).permutation(len(groups))
    groups = [groups[n] for n in order]
    firsts = ["" if classes is None else classes[group[0]] for group in groups]
    place, size = places_in_class(np.array(firsts))
    share = np.where(size == 1, 1.0, (place + 0.5) / size)
    return [groups[n] for n in np.argsort(share, kind="stable")]


def split_share(
    examples: E, share: float, seed: int, classes: Sequence[str] | None = None
) -> tuple[E, E]:
    """The examples to train on, and the share of all to judge on.

    Args:
        share: from 0 to 0.5; at least one example is judged on.
        classes: class of each example; each has its share of both parts.

    Raises:
        ValueError: nothing would be left for one of the parts.
    """
    groups = stratified_groups(examples, seed, classes)
    sizes = np.cumsum([group.size for group in groups])
    count = 1 + int(np.searchsorted(sizes, max(1, round(share * len(examples)))))
    if count >= len(groups):
        raise ValueError(
            f"{len(examples):,} examples of {examples.reading.path}, of which those "
            f"of one text or passage stay together, cannot be parted so that a share of {share:g} is judged on; "
            "give more examples, or a file to judge on: --dev FILE."
        )
    chosen = np.concatenate(groups[:count])
    kept = np.concatenate(groups[count:])
    return examples.take(np.sort(kept)), examples.take(np.sort(chosen))


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


def shots(examples: E, count: int, seed: int, classes: Sequence[str]) -> E:
    """`count` examples of each class. Fewer shots are part of more shots.

    Raises:
        ValueError: a class has fewer examples.
    """
    names, of = np.unique(np.array(classes), return_inverse=True)
    sizes = np.bincount(of)
    if sizes.min() < count:
        raise ValueError(
            f"{examples.reading.path} has {sizes.min():,} examples of the class "
            f"{str(names[sizes.argmin()])!r}; expected at least {count} of each. Pass "
            f"--shots {sizes.min()} or less."
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    place, _ = places_in_class(of[order])
    return examples.take(np.sort(order[place < count]))
