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
    for one, other in itertools.permutations(datasets, 2):
        held_out = [*_hashes(one, is_held_out=True)]
        trained = _hashes(other, is_held_out=False)
        if not held_out or (first := next(trained, None)) is None:
            bare = other if held_out else one
            yield (
                f"note: nobody looked whether held-out documents of {_name(one)} are "
                f"trained on in {_name(other)}, because {bare.directory / SIDE_FILES}, "
                "which `bert-jax prepare` wrote, is not there"
            )
            continue
        documents = np.concatenate(held_out)
        leaked = np.zeros(documents.size, bool)
        for hashes in itertools.chain([first], trained):
            leaked |= np.isin(documents, hashes)
        if leaked.any():
            yield (
                f"note: {leaked.sum():,} of {leaked.size:,} held-out documents of "
                f"{_name(one)} are trained on in {_name(other)}, word for word, so the "
                f"held-out loss of {_name(one)} is too low; take them out of the source "
                f"of {_name(other)}, or give copies the same `group` in both sources"
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


def _name(dataset: PreparedDataset) -> str:
    return dataset.directory.absolute().name
