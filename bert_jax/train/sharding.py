"""Decides where every array lives, by two tables. Only this module names mesh axes.

PARAM_AXES maps the path of a parameter to logical axes; MESH_AXES maps these to mesh
axes. Optimizer moments have the paths of their parameters and are placed like them. With
weight-update sharding, the moments are split over the copies of the model as well.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from bert_jax.model.logical import Axes, Placement, placed
from bert_jax.train.tensors import path_name

# Outermost axis first: the slowest network joins slices; tensor needs the fastest links.
MESH_AXIS_NAMES = ("slice", "data", "fsdp", "sequence", "tensor")

MESH_AXES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("slice", "data", "fsdp"),
    "length": "sequence",
    "kv_length": None,  # every part of a row gets all keys and values of the row
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "vocab_rows": ("tensor", "fsdp"),
    "act_embed": None,  # activations keep the model width whole
    "head_dim": None,
    "layers": None,  # the scanned axis
}
# The axis of the copies of the model in a slice, which may share the work of an update.
_UPDATE_AXIS = "data"
# Number of entries (256 KiB in float32) below which splitting a leaf does not pay: it
# costs more in messages than it saves in memory.
_LEAST_SPLIT = 1 << 16

# Path suffix -> logical axes. The first match counts; no match is an error.
PARAM_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/token/embedding", ("vocab_rows", None)),
    (r"embed/(position|segment)/embedding", (None, None)),
    (r"embed/widen/kernel", (None, "embed")),
    (r"embed/widen/bias", (None,)),
    (r"attention/(query|key|value)/kernel", ("layers", "embed", "heads", "head_dim")),
    (r"attention/(query|key|value)/bias", ("layers", "heads", "head_dim")),
    (r"attention/out/kernel", ("layers", "heads", "head_dim", "embed")),
    (r"attention/out/bias", ("layers", None)),
    (r"mlp/(up|gate)/kernel", ("layers", "embed", "mlp")),
    (r"mlp/(up|gate)/bias", ("layers", "mlp")),
    (r"mlp/down/kernel", ("layers", "mlp", "embed")),
    (r"mlp/down/bias", ("layers", None)),
    (r"lora/attention/(query|key|value)/a", ("layers", "embed", None)),
    (r"lora/attention/(query|key|value)/b", ("layers", None, "heads", "head_dim")),
    (r"lora/attention/out/a", ("layers", "heads", "head_dim", None)),
    (r"lora/(attention/out|mlp/down)/b", ("layers", None, "embed")),
    (r"lora/mlp/(up|gate)/a", ("layers", "embed", None)),
    (r"lora/mlp/(up|gate)/b", ("layers", None, "mlp")),
    (r"lora/mlp/down/a", ("layers", "mlp", None)),
    (r"layers/.*norm/(scale|bias)", ("layers", None)),
    (r"norm/(scale|bias)", (None,)),
    (r"(mlm|pooler)/transform/kernel", ("embed", None)),
    (r"(mlm|pooler)/transform/bias", (None,)),
    (r"mlm/decoder/embedding", ("vocab_rows", None)),
    (r"mlm/output_bias", ("vocab",)),
    (r"(pooler|nsp|classifier|tokens|spans|choice)/kernel", ("embed", None)),
    (r"(pooler|nsp|classifier|tokens|spans|choice)/bias", (None,)),
    (r"key", (None,)),  # the root of the random streams
)


def spec(*axes: str | None) -> PartitionSpec:
    """The partition spec over mesh axes that belongs to these logical axes."""
    return PartitionSpec(*(None if a is None else MESH_AXES[a] for a in axes))


def logical_axes(path: tuple, leaf: Any) -> Axes:
    """The logical axes of a leaf of a parameter or optimizer tree; a scalar has none.

    Args:
        path: of the leaf, as JAX gives it.
        leaf: array or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: the leaf matches no row, or the row has the wrong rank.
    """
    name = path_name(path)
    if leaf.ndim == 0:
        return ()
    for pattern, axes in PARAM_AXES:
        if re.search(rf"(^|/){pattern}$", name):
            if len(axes) != leaf.ndim:
                raise ValueError(
                    f"Sharding row {pattern!r} names {len(axes)} axes {axes}, but "
                    f"parameter {name!r} has shape {leaf.shape}."
                )
            return axes
    raise ValueError(
        f"No row of PARAM_AXES matches parameter {name!r} of shape {leaf.shape}. "
        "Add one to bert_jax/train/sharding.py; replicate it with (None,) * ndim."
    )


def param_specs(tree: Any) -> Any:
    """The same tree of parameters or moments with a `PartitionSpec` for each leaf.

    Raises:
        ValueError: as for `logical_axes`.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: spec(*logical_axes(path, leaf)), tree
    )


def shardings(mesh: Mesh, tree: Any) -> Any:
    """The same tree with a `NamedSharding` in place of each leaf.

    Raises:
        ValueError: as for `param_specs`, or a mesh axis does not divide its dimension.
    """

    def one(path: tuple, leaf: Any, leaf_spec: PartitionSpec) -> NamedSharding:
        for size, parts, group in split_dims(mesh, leaf, leaf_spec):
            if size % parts:
                where = path_name(path)
                raise ValueError(
                    f"Mesh axes {group} split a dimension of {where!r} into {parts} "
                    f"parts, which do not divide its size {size} (shape {leaf.shape}); "
                    "change MeshConfig."
                )
        return NamedSharding(mesh, leaf_spec)

    return jax.tree_util.tree_map_with_path(one, tree, param_specs(tree))


def abstract(shapes: Any, places: Any) -> Any:
    """Shapes and types that know their places, to restore or to compile for.

    Args:
        shapes: tree of `jax.ShapeDtypeStruct`.
        places: the same tree of shardings, such as `shardings` returns.
    """
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        places,
    )


def update_shardings(mesh: Mesh, tree: Any) -> Any:
    """`shardings`, with large leaves also split over the copies of the model.

    The longest dimension that can be divided further by the number of copies is split; a
    leaf without such a dimension stays as it is. Gradients, moments and updates are
    placed like this while each copy computes its part of an update.

    Source: Xu et al. 2020, "Automatic Cross-Replica Sharding of Weight Update".
    """
    copies = mesh.shape[_UPDATE_AXIS]

    def one(leaf: Any, place: NamedSharding) -> NamedSharding:
        if copies == 1 or leaf.size < _LEAST_SPLIT:
            return place
        split = list(split_dims(mesh, leaf, place.spec))
        fitting = [
            (size // parts, -number)
            for number, (size, parts, _) in enumerate(split)
            if size % (parts * copies) == 0
        ]
        if not fitting:
            return place
        chosen = -max(fitting)[1]
        groups = [group or None for _, _, group in split]
        groups[chosen] = (*split[chosen][2], _UPDATE_AXIS)
        return NamedSharding(mesh, PartitionSpec(*groups))

    return jax.tree.map(one, tree, shardings(mesh, tree))


def split_dims(
    mesh: Mesh, leaf: Any, leaf_spec: PartitionSpec
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """For each dimension: its size, its number of parts, the mesh axes that split it."""
    for size, names in zip(
        leaf.shape, (*leaf_spec, *(None,) * leaf.ndim), strict=False
    ):
        group = (names,) if isinstance(names, str) else tuple(names or ())
        yield size, math.prod(mesh.shape[name] for name in group), group


def bytes_per_device(tree: Any) -> int:
    """The bytes of abstract arrays on one device, without the padding of layouts."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The placement of batches, whose first axis is the rows, split over the mesh."""
    return NamedSharding(mesh, spec("batch"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def num_row_parts(mesh: Mesh | AbstractMesh) -> int:
    """Number of parts into which the rows of a batch are split."""
    return math.prod(mesh.shape[name] for name in MESH_AXES["batch"] or ())


def check_batch_size(
    mesh: Mesh | AbstractMesh, batch_size: int, micro_batches: int = 1
) -> None:
    """Raises ValueError if the rows cannot be shared evenly."""
    parts = num_row_parts(mesh) * micro_batches
    if batch_size % parts:
        asked = " * ".join(
            f"{name}={mesh.shape[name]}" for name in MESH_AXES["batch"] or ()
        )
        raise ValueError(
            f"batch_size={batch_size} rows cannot be shared by {asked} devices in "
            f"micro_batches={micro_batches}; make it a multiple of {parts}."
        )


@contextlib.contextmanager
def on_mesh(
    mesh: Mesh, look: Callable[[jax.Array, Axes], None] = lambda x, axes: None
) -> Iterator[None]:
    """The context in which a traced model places its activations on this mesh.

    Args:
        mesh: the devices.
        look: called with each activation that is placed, and its logical axes.
    """

    def constrain(x: jax.Array, axes: Axes) -> jax.Array:
        look(x, axes)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(*axes)))

    def shard_mapped(
        function: Callable, in_axes: tuple[Axes, ...], out_axes: Axes
    ) -> Callable:
        # Pallas kernels do not say which results vary over which mesh axis, so JAX
        # cannot check it (check_vma).
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(spec(*axes) for axes in in_axes),
            out_specs=spec(*out_axes),
            check_vma=False,
        )

    def num_parts(axis: str) -> int:
        names = MESH_AXES[axis] or ()
        group = (names,) if isinstance(names, str) else names
        return math.prod(mesh.shape[name] for name in group)

    platform = mesh.devices.flat[0].platform
    with placed(
        Placement(constrain, shard_mapped, num_parts, platform, mesh.devices.size)
    ):
        yield
