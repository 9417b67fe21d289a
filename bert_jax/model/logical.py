"""Logical names for the axes of activations. Nothing here depends on a mesh.

The model names the logical axes of its arrays. `train/sharding.py` maps them to mesh
axes and sets a `Placement` while a step is traced. Without one, arrays are not split.

    batch      rows                        heads      attention heads
    length     tokens (of the queries)     head_dim   width of a head, never split
    kv_length  tokens that are attended    mlp        width of the feed-forward layer
               to, never split             act_embed  model width, never split
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

Axes = tuple[str | None, ...]


class Placement(NamedTuple):
    """How a mesh places arrays whose logical axes are known."""

    constrain: Callable[[jax.Array, Axes], jax.Array]
    """constrain(array, axes) returns the array, placed by its logical axes."""
    shard_mapped: Callable[[Callable, tuple[Axes, ...], Axes], Callable]
    """Does the work of the function `shard_mapped` below."""
    num_parts: Callable[[str], int]
    """num_parts(axis) is the number of parts into which devices split a logical axis."""
    platform: str
    """Platform that the program is compiled for: "cpu", "gpu" or "tpu"."""
    num_devices: int


_placement: contextvars.ContextVar[Placement | None] = contextvars.ContextVar(
    "placement", default=None
)


@contextlib.contextmanager
def placed(placement: Placement) -> Iterator[None]:
    """Traces the model with this placement in force."""
    token = _placement.set(placement)
    try:
        yield
    finally:
        _placement.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Places `x` by its logical axes. Without a placement, it returns `x` as it is."""
    placement = _placement.get()
    return x if placement is None else placement.constrain(x, axes)


def shard_mapped(
    function: Callable, in_axes: tuple[Axes, ...], out_axes: Axes
) -> Callable:
    """Makes each device run `function` on its own part of the arguments.

    This is for kernels, which XLA cannot split. If a kernel must know which rows, heads
    or tokens a device has, pass their numbers as an argument with the same axis. An
    argument that names no axis is whole on every device; the gradients of its copies are
    summed.

    Args:
        function: takes as many arrays as `in_axes` has entries and returns one array.
        in_axes: logical axes of each argument. Every axis that is split over devices
            must also be an axis of the result.
        out_axes: logical axes of the result.
    """
    placement = _placement.get()
    if placement is None:
        return function
    return placement.shard_mapped(function, in_axes, out_axes)


def num_parts(axis: str) -> int:
    """Number of parts into which a logical axis is split. Without a placement, 1."""
    placement = _placement.get()
    return 1 if placement is None else placement.num_parts(axis)


def is_split() -> bool:
    """Whether the program is for several devices. Without a placement, it is not."""
    placement = _placement.get()
    return placement is not None and placement.num_devices > 1


def platform() -> str:
    """Platform of the placement's devices. Without a placement, JAX's default."""
    placement = _placement.get()
    return jax.default_backend() if placement is None else placement.platform
