"""Moves batches from the memory of the hosts to global arrays on devices."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.train import sharding


class RowParts(NamedTuple):
    """Which parts of a global batch this process has to load."""

    parts: tuple[int, ...]
    """Ascending numbers. Two processes that both need a part both load it."""
    num_parts: int
    """Number of parts of a batch, which all have the same number of rows."""


def row_parts(mesh: Mesh) -> RowParts:
    """The parts of a batch that lie on this process's devices.

    They follow from the places of the devices in the mesh. So hosts may come in any
    order, and several hosts of a tensor group may need the same rows.
    """
    num_parts = sharding.num_row_parts(mesh)
    places = sharding.batch_sharding(mesh).addressable_devices_indices_map((num_parts,))
    starts = {index[0].start or 0 for index in places.values() if index is not None}
    return RowParts(tuple(sorted(starts)), num_parts)


def to_devices(mesh: Mesh, batch: Any) -> Any:
    """Makes global arrays from the rows of all processes.

    Args:
        mesh: devices to place the rows on.
        batch: this process's rows: its `row_parts`, one after the other.
    """
    target = sharding.batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, target)
    parts, num_parts = row_parts(mesh)
    local = {part: number for number, part in enumerate(parts)}

    def place(rows: np.ndarray) -> jax.Array:
        share = rows.shape[0] // len(parts)

        def of_device(index: Any) -> np.ndarray:
            number = local[(index[0].start or 0) // share]
            return rows[number * share : (number + 1) * share]

        shape = (share * num_parts, *rows.shape[1:])
        return jax.make_array_from_callback(shape, target, of_device)

    return jax.tree.map(place, batch)


def global_batch(mesh: Mesh, batch: Any) -> Any:
    """Makes global arrays from a batch of which every process holds all rows."""
    target = sharding.batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_callback(
            rows.shape, target, lambda index: rows[index]
        ),
        batch,
    )
