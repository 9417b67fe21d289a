"""Names for the axes of activations, without a word about any mesh.

The model says what an axis is; `train/sharding.py` knows which mesh axes that goes to
and hands in a `Placement` while a step is traced. Without one, arrays are whole.

    batch      rows                        heads      of attention
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
    """How a mesh takes up what the model says about its arrays."""

    constrain: Callable[[jax.Array, Axes], jax.Array]
    """constrain(array, axes) returns the array, laid out by its logical axes."""
    shard_mapped: Callable[[Callable, tuple[Axes, ...], Axes], Callable]
    """As the function of that name below."""
    num_parts: Callable[[str], int]
    """Into how many parts the devices split a logical axis."""
    platform: str
    """Of the devices the program is compiled for: "cpu", "gpu" or "tpu"."""
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
    """States the logical axes of `x`; without a placement it returns `x`."""
    placement = _placement.get()
    return x if placement is None else placement.constrain(x, axes)


def shard_mapped(
    function: Callable, in_axes: tuple[Axes, ...], out_axes: Axes
) -> Callable:
    """`function` as each device runs it on its own part of the arguments.

    For kernels, which XLA cannot split. What a device must know of its place comes in
    as an argument: number the rows, heads or tokens and split the numbers with them.
    An argument that names no axis is whole on every device, and the gradients that
    the devices give for their copies are summed.

    Args:
        function: of as many arrays as `in_axes` has entries; returns one array.
        in_axes, out_axes: the logical axes of each argument, and of the result. Every
            axis that is split over devices must be among those of the result.
    """
    placement = _placement.get()
    if placement is None:
        return function
    return placement.shard_mapped(function, in_axes, out_axes)


def num_parts(axis: str) -> int:
    """Into how many parts a logical axis is split; without a placement, one."""
    placement = _placement.get()
    return 1 if placement is None else placement.num_parts(axis)


def is_split() -> bool:
    """Whether the program is for several devices; without a placement, it is not."""
    placement = _placement.get()
    return placement is not None and placement.num_devices > 1


def platform() -> str:
    """Of the devices in force; without a placement, the one JAX would choose."""
    placement = _placement.get()
    return jax.default_backend() if placement is None else placement.platform
