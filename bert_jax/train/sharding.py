"""Where every array lives: two tables, and nothing else that names a mesh axis.

Parameter path -> logical axes -> mesh axes. Optimizer moments repeat the paths of
their parameters, so they follow them.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config import MeshConfig
from bert_jax.model.logical import constrained_by

MESH_AXES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "vocab_rows": ("tensor", "fsdp"),
    "act_embed": None,  # activations keep the model width whole
    "head_dim": None,
    "layers": None,  # the scanned axis
}

# Path suffix -> logical axes. First match wins; no match is an error.
PARAM_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/token/embedding", ("vocab_rows", None)),
    (r"embed/(position|segment)/embedding", (None, None)),
    (r"attention/(query|key|value)/kernel", ("layers", "embed", "heads", "head_dim")),
    (r"attention/(query|key|value)/bias", ("layers", "heads", "head_dim")),
    (r"attention/out/kernel", ("layers", "heads", "head_dim", "embed")),
    (r"attention/out/bias", ("layers", None)),
    (r"mlp/up/kernel", ("layers", "embed", "mlp")),
    (r"mlp/up/bias", ("layers", "mlp")),
    (r"mlp/down/kernel", ("layers", "mlp", "embed")),
    (r"mlp/down/bias", ("layers", None)),
    (r"layers/.*norm/(scale|bias)", ("layers", None)),
    (r"norm/(scale|bias)", (None,)),
    (r"mlm/transform/kernel", ("embed", None)),
    (r"mlm/transform/bias", (None,)),
    (r"mlm/output_bias", ("vocab",)),
    (r"(pooler|nsp|classifier|tokens|spans)/kernel", ("embed", None)),
    (r"(pooler|nsp|classifier|tokens|spans)/bias", (None,)),
    (r"key", (None,)),  # the root of the random streams
)


def make_mesh(cfg: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Arranges all devices as (data, fsdp, tensor).

    Raises:
        ValueError: the axes do not multiply to the number of devices.
    """
    devices = devices or jax.devices()
    sizes = {"data": cfg.data, "fsdp": cfg.fsdp, "tensor": cfg.tensor}
    fixed = 1
    for size in sizes.values():
        fixed *= max(size, 1)
    sizes = {n: len(devices) // fixed if s == -1 else s for n, s in sizes.items()}
    product = sizes["data"] * sizes["fsdp"] * sizes["tensor"]
    if product != len(devices):
        asked = " * ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"MeshConfig asks for {asked} = {product} devices, but {len(devices)} are "
            "visible."
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def spec(*axes: str | None) -> PartitionSpec:
    """Logical axes as a partition spec over the mesh."""
    return PartitionSpec(*(None if a is None else MESH_AXES[a] for a in axes))


def param_specs(tree: Any) -> Any:
    """Maps each leaf of a parameter or optimizer tree to its partition spec.

    Args:
        tree: pytree of arrays or `jax.ShapeDtypeStruct`. Scalars are replicated.

    Returns:
        The same tree with a `PartitionSpec` in place of each leaf.

    Raises:
        ValueError: a leaf matches no row, or a row has the wrong rank.
    """

    def one(path: tuple, leaf: Any) -> PartitionSpec:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if leaf.ndim == 0:
            return PartitionSpec()
        for pattern, axes in PARAM_AXES:
            if re.search(rf"(^|/){pattern}$", name):
                if len(axes) != leaf.ndim:
                    raise ValueError(
                        f"Sharding row {pattern!r} names {len(axes)} axes {axes}, but "
                        f"parameter {name!r} has shape {leaf.shape}."
                    )
                return spec(*axes)
        raise ValueError(
            f"No row of PARAM_AXES matches parameter {name!r} of shape {leaf.shape}. "
            "Add one to bert_jax/train/sharding.py; replicate it with (None,) * ndim."
        )

    return jax.tree_util.tree_map_with_path(one, tree)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """The same tree with a `NamedSharding` in place of each leaf.

    Raises:
        ValueError: as `param_specs`, or a mesh axis does not divide its dimension.
    """

    def one(path: tuple, leaf: Any, leaf_spec: PartitionSpec) -> NamedSharding:
        for size, names in zip(leaf.shape, leaf_spec, strict=False):
            group = (names,) if isinstance(names, str) else names or ()
            parts = 1
            for name in group:
                parts *= mesh.shape[name]
            if size % parts:
                where = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"Mesh axes {group} split a dimension of {where!r} into {parts} "
                    f"parts, which do not divide its size {size} (shape {leaf.shape}); "
                    "change MeshConfig."
                )
        return NamedSharding(mesh, leaf_spec)

    return jax.tree_util.tree_map_with_path(one, tree, param_specs(tree))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all axes that hold rows; every array of a batch has rows first."""
    return NamedSharding(mesh, spec("batch"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Raises ValueError when the rows cannot be shared evenly."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"batch_size={batch_size} rows cannot be shared by data="
            f"{mesh.shape['data']} * fsdp={mesh.shape['fsdp']} = {parts} devices; make "
            f"it a multiple of {parts}."
        )


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """Traces the model with its activations constrained to this mesh."""

    def constraint(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(*axes)))

    with constrained_by(constraint):
        yield


def to_devices(mesh: Mesh, batch: Any) -> Any:
    """This host's rows as global arrays."""
    target = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(target, x), batch
    )
