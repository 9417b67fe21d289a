"""Batches from the hosts' memory to global arrays."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.train import sharding


class RowParts(NamedTuple):
    """Which parts of a global batch this process has to load."""

    parts: tuple[int, ...]
    """Ascending; one that another process holds too is loaded by both."""
    num_parts: int
    """All parts of a batch; each has as many rows."""


def row_parts(mesh: Mesh) -> RowParts:
    """The parts of a batch that lie on this process's devices.

    They follow the devices' places in the mesh, so neither does the order of hosts
    matter, nor that the hosts of a tensor group need the same rows.
    """
    num_parts = sharding.num_row_parts(mesh)
    places = sharding.batch_sharding(mesh).addressable_devices_indices_map((num_parts,))
    starts = {index[0].start or 0 for index in places.values() if index is not None}
    return RowParts(tuple(sorted(starts)), num_parts)


def to_devices(mesh: Mesh, batch: Any) -> Any:
    """This process's rows, its `row_parts` one after the other, as global arrays."""
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
    """Rows that every process holds whole, as global arrays."""
    target = sharding.batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_callback(
            rows.shape, target, lambda index: rows[index]
        ),
        batch,
    )
