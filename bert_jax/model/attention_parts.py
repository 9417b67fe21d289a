"""What the attention kernels for TPU and GPU have in common."""

from typing import Any

import jax
import jax.numpy as jnp

Ref = Any  # a reference to the chip's memory; Pallas has no public name for its type

LANES = 128  # of a TPU's registers

NO_SEQUENCE = jnp.iinfo(jnp.int32).min
"""Sequence id of the padding that fills up a block; no real sequence has this id."""


def dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Matrix product over one axis of each factor, summed in float32."""
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32
    )


def filled(x: jax.Array, block: int, value: int = 0) -> jax.Array:
    """Adds tokens until the second axis is a whole number of blocks."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, -x.shape[1] % block)
    return jnp.pad(x, pad, constant_values=value)
