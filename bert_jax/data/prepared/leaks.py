"""Held-out documents of one dataset that stand in the training text of another one.

`prepare` looks for such documents within a dataset. In a mixture they make the held-out
loss of a dataset lower than it would be on text that the model has not seen.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.data.prepared.arrays import load_array
from bert_jax.data.prepared.dataset import PreparedDataset
from bert_jax.data.prepared.format import SIDE_FILES


def describe_leaks(datasets: Sequence[PreparedDataset]) -> Iterator[str]:
    """Sentences about each dataset and each other one that was trained on its held-out text."""
    for one in datasets:
        held_out = [*_hashes(one, is_held_out=True)]
        for other in datasets:
            if other is not one and (line := _leaks(one, held_out, other)):
                yield line


def _leaks(
    one: PreparedDataset, held_out: list[np.ndarray], other: PreparedDataset
) -> str | None:
    """A sentence if held-out documents, whose hashes are given, stand in the other dataset."""
    trained = _hashes(other, is_held_out=False)
    if not held_out or (first := next(trained, None)) is None:
        bare = other if held_out else one
        return (
            f"note: nobody looked whether held-out documents of {one.name} are trained on "
            f"in {other.name}, because {bare.directory / SIDE_FILES}, which "
            "`bert-jax prepare` wrote, is not there"
        )
    documents = np.concatenate(held_out)
    leaked = np.zeros(documents.size, bool)
    for hashes in itertools.chain([first], trained):
        leaked |= np.isin(documents, hashes)
    if not leaked.any():
        return None
    return (
        f"note: {leaked.sum():,} of {leaked.size:,} held-out documents of {one.name} are "
        f"trained on in {other.name}, word for word, so the held-out loss of {one.name} "
        f"is too low; take them out of the source of {other.name}, or give copies the "
        "same `group` in both sources"
    )


def _hashes(dataset: PreparedDataset, *, is_held_out: bool) -> Iterator[np.ndarray]:
    """uint64 [documents]: half of the hash of a split's documents, shard by shard.

    It is equal for one of 10**19 pairs of different documents.
    """
    folder = dataset.directory / SIDE_FILES
    for path in sorted(folder.glob("*.hashes.npy")):
        shard = path.name.removesuffix(".hashes.npy")
        is_chosen = load_array(folder / f"{shard}.held_out.npy") == is_held_out
        dropped = folder / f"{shard}.drop.npy"
        if dropped.exists():
            is_chosen[load_array(dropped)] = False
        yield load_array(path)[is_chosen, 0]
