"""Random choices among labelled examples: a share to judge on, fewer to train on.

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
