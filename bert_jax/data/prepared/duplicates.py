"""Finds documents that repeat an earlier one, over all shards, in bounded memory.

Exact copies are found by sorting hashes, some of them at a time. Near copies are
found by locality-sensitive hashing of MinHash signatures (Broder 1997; Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, section 3.4).
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data.prepared.arrays import load_array
from bert_jax.data.prepared.fingerprints import SIGNATURE_SIZE

# So many documents are sorted at once; each takes 24 bytes, and as much for the order.
_AT_ONCE = 8_000_000


class Duplicates(NamedTuple):
    """Which documents repeat an earlier one, in reading order over all shards."""

    exact: np.ndarray  # bool [documents], has the same text
    near: np.ndarray  # bool [documents], has nearly the same text and is not `exact`
    num_leaked: int
    """How many held-out documents have a text that is also in the training split."""


def find_duplicates(
    hash_files: Sequence[pathlib.Path],
    held_out: np.ndarray,
    signature_files: Sequence[pathlib.Path] = (),
    *,
    threshold: float = 0.0,
) -> Duplicates:
    """Compares all documents of a corpus.

    Args:
        hash_files: one file per shard, uint64 [documents, 2].
        held_out: bool [documents], whether a document is for validation.
        signature_files: one file per shard, uint32 [documents, SIGNATURE_SIZE]; read
            only if `threshold` is not 0.
        threshold: two documents are near copies if the estimated Jaccard similarity of
            their five-word sequences is at least this; 0 finds no near copies.
    """
    shards = [load_array(path) for path in hash_files]
    first = np.cumsum([0, *(len(shard) for shard in shards)])
    exact = np.zeros(first[-1], bool)
    num_passes = -(-int(first[-1]) // _AT_ONCE)
    num_leaked = 0
    for number in range(num_passes):
        chosen = [
            np.flatnonzero(shard[:, 0] % np.uint64(num_passes) == number)
            for shard in shards
        ]
        hashes = np.concatenate([s[c] for s, c in zip(shards, chosen, strict=True)])
        numbers = np.concatenate([c + f for c, f in zip(chosen, first, strict=False)])
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        hashes, numbers = hashes[order], numbers[order]
        repeats = np.append(False, (hashes[1:] == hashes[:-1]).all(axis=1))[
            : numbers.size
        ]
        exact[numbers[repeats]] = True
        group = np.cumsum(~repeats) - 1
        out = held_out[numbers]
        trained = np.zeros(group.max(initial=-1) + 1, bool)
        trained[group[~out]] = True
        num_leaked += int((trained[group] & out).sum())
    near = np.zeros_like(exact)
    if threshold > 0.0:
        near = _near_copies(signature_files, exact, threshold)
    return Duplicates(exact, near, num_leaked)


def num_bands(threshold: float) -> int:
    """How many bands a signature is divided into.

    Documents are compared if they agree in at least one band. Two documents of
    similarity (1 / bands) ** (bands / SIGNATURE_SIZE) do so in about 63 % of the cases.
    The result is the smallest number for which that similarity is at most `threshold`.
    """
    for bands in (2, 4, 8, 16, 32, 64):
        if (1 / bands) ** (bands / SIGNATURE_SIZE) <= threshold:
            return bands
    return SIGNATURE_SIZE


def _near_copies(
    files: Sequence[pathlib.Path], exact: np.ndarray, threshold: float
) -> np.ndarray:
    """Compares each document with the first one that agrees with it in a band."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    shards = [load_array(path) for path in files]
    first = np.cumsum([0, *(len(shard) for shard in shards)])
    bands = num_bands(threshold)
    size = SIGNATURE_SIZE // bands
    edges = [np.zeros((2, 0), np.int64)]
    for band in range(bands):
        columns = slice(band * size, (band + 1) * size)
        keys = np.concatenate([_band_keys(shard[:, columns]) for shard in shards])
        order = np.argsort(keys, kind="stable")
        opens = np.append(True, keys[order[1:]] != keys[order[:-1]])[: order.size]
        earliest = order[opens][np.cumsum(opens) - 1]
        linked = order != earliest
        edges.append(np.stack([order[linked], earliest[linked]]))
    pairs = np.unique(np.concatenate(edges, axis=1), axis=1)
    alike = np.zeros(pairs.shape[1], bool)
    for start in range(0, alike.size, 100_000):
        block = pairs[:, start : start + 100_000]
        one, other = (_signatures(shards, first, numbers) for numbers in block)
        alike[start : start + 100_000] = (one == other).mean(axis=1) >= threshold
    pairs = pairs[:, alike]
    count = exact.size
    graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (count, count))
    num_components, component = connected_components(graph, directed=False)
    earliest = np.full(num_components, count)
    np.minimum.at(earliest, component, np.arange(count))
    return (earliest[component] != np.arange(count)) & ~exact


def _band_keys(band: np.ndarray) -> np.ndarray:
    """A hash of each document's entries in a band, uint64 [documents]."""
    key = np.zeros(len(band), np.uint64)
    for column in band.T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(31)
    return key


def _signatures(
    shards: Sequence[np.ndarray], first: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Signatures of documents, which are numbered over all shards."""
    found = np.empty((numbers.size, SIGNATURE_SIZE), np.uint32)
    shard_of = np.searchsorted(first, numbers, side="right") - 1
    for shard in np.unique(shard_of):
        mine = shard_of == shard
        found[mine] = shards[shard][numbers[mine] - first[shard]]
    return found
