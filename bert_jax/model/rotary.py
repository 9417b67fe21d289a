"""Rotary positions: queries and keys are rotated by angles that grow with the place.

The product of a rotated query and a rotated key depends on the distance of their places
only.

Shape suffixes: B rows, T tokens, N heads, H head width, R = H / 2 pairs of numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.model.logical import platform


class Rotation(NamedTuple):
    """Cosine and sine of the angle of each token and pair, float32 [B, T, 1, R]."""

    cos: jax.Array
    sin: jax.Array


def rotation(position_ids_BT: jax.Array, theta: float, head_size: int) -> Rotation:
    """The angles position * theta ** (-2 r / H) for the pairs r = 0, 1, ...

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    pairs = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    # Rounded in the same places as PyTorch rounds them: an error of a frequency counts as
    # often as there are places.
    powers = np.power(np.float64(theta), pairs).astype(np.float32)
    frequencies_R = np.float32(1.0) / powers
    positions_BT11 = jnp.asarray(position_ids_BT, jnp.float32)[..., None, None]
    angles = positions_BT11 * frequencies_R[None, None, None]
    return Rotation(_once(jnp.cos(angles)), _once(jnp.sin(angles)))


def _once(x_BT1R: jax.Array) -> jax.Array:
    """The same numbers, behind a lookup that XLA for CPU does not look through.

    It would work out a cosine wherever one is used: in every layer, head and backward pass.
    """
    if platform() != "cpu":
        return x_BT1R
    places_1T11 = jnp.arange(x_BT1R.shape[1])[None, :, None, None]
    return jnp.take_along_axis(x_BT1R, places_1T11, axis=1, mode="promise_in_bounds")


def rotate(x_BTNH: jax.Array, by: Rotation) -> jax.Array:
    """Rotates the pairs (x[r], x[r + H / 2]) of each head, in float32.

    The halves of a head are the pairs, as in GPT-NeoX and Hugging Face's models.
    """
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = (
        first * by.cos - second * by.sin,
        second * by.cos + first * by.sin,
    )
    return jnp.concatenate(rotated, axis=-1).astype(x_BTNH.dtype)
