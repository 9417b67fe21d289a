"""A table of how each parameter and its moments are split over the devices."""

import dataclasses
from typing import Any

import jax

from bert_jax.train.sharding import bytes_per_device, logical_axes, split_dims
from bert_jax.train.step import TrainState
from bert_jax.train.tensors import path_name

MeshAxes = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class ShardedParameter:
    """One row of the table; a parameter that all layers share as one array is one row."""

    name: str
    shape: tuple[int, ...]
    logical_axes: tuple[str | None, ...]
    mesh_axes: MeshAxes
    """For each dimension the mesh axes that split it, without axes of one device."""
    bytes_per_device: int
    moments_mesh_axes: MeshAxes
    """The same for its moments, which weight-update sharding splits further."""
    moments_bytes_per_device: int
    """The bytes of all its moments together on one device."""


def sharding_table(state: TrainState) -> tuple[ShardedParameter, ...]:
    """One row for each parameter, in the order of the tree.

    Args:
        state: abstract arrays, each with its sharding.
    """
    moments: dict[str, list[Any]] = {}
    params = {path_name(path): (path, leaf) for path, leaf in _leaves(state.params)}
    for path, leaf in _leaves(state.opt_state):
        parts = path_name(path).split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in params:
                moments.setdefault(name, []).append(leaf)
                break
    return tuple(
        ShardedParameter(
            name=name,
            shape=tuple(leaf.shape),
            logical_axes=logical_axes(path, leaf),
            mesh_axes=_mesh_axes(leaf),
            bytes_per_device=bytes_per_device(leaf),
            moments_mesh_axes=_mesh_axes(moments.get(name, [leaf])[0]),
            moments_bytes_per_device=bytes_per_device(moments.get(name, [])),
        )
        for name, (path, leaf) in params.items()
    )


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _mesh_axes(leaf: Any) -> MeshAxes:
    mesh = leaf.sharding.mesh
    return tuple(
        tuple(name for name in group if mesh.shape[name] > 1)
        for _, _, group in split_dims(mesh, leaf, leaf.sharding.spec)
    )
