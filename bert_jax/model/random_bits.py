"""Random bits for dropout: one key per row, and a cheap hash of the place in the row.

Each bit is a function of (the row's key, the index in the row). So it depends neither on
how a batch is sharded nor on the micro-batch that holds the row, and a kernel can draw
the bits of its own block. Threefry makes the keys. The hash makes the bits, 8 to 27
times as fast as threefry on CPU (benchmarks/LOG.md).
"""

import math

import jax
import jax.numpy as jnp

KEY_KIND = "threefry2x32"
"""The generator of all keys, whatever JAX's own default is."""


def root_key(seed: int | jax.Array) -> jax.Array:
    """The typed key that all random choices of one purpose are derived from."""
    return jax.random.key(seed, impl=KEY_KIND)


def row_keys(key: jax.Array | None, num_rows: int) -> jax.Array | None:
    """Typed keys [B], each folded from `key` and the number of its row.

    Args:
        key: a typed key. Typed keys [B] and `None` are returned as they are.
        num_rows: B.

    Raises:
        ValueError: `key` is neither one key nor as many as there are rows.
    """
    if key is None or key.shape == (num_rows,):
        return key
    if key.shape != ():
        raise ValueError(
            f"The key has shape {list(key.shape)}; expected one key, or one for each "
            f"of the {num_rows} rows."
        )
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_rows))


def key_sets(keys_B: jax.Array | None, num: int) -> jax.Array | None:
    """`num` independent sets of row keys, [num, B]; `None` if dropout is off."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys_B)


def hash_bits(index: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """32 random bits for each index: two rounds of a multiply-xorshift hash.

    For a fixed key, the hash is a permutation of the 2**32 indices.

    Args:
        index: uint32, any shape.
        first, second: uint32, the two words of a key; broadcast against `index`.

    Source: the constants of lowbias32 and of its successor in the results of
    "hash-prospector" (Wellons 2018), a search for the least avalanche bias.
    """
    bits = index ^ first
    for multiplier_1, multiplier_2, after in (
        (0x7FEB352D, 0x846CA68B, second),
        (0x21F0AAAD, 0xD35A2D97, None),
    ):
        bits = (bits ^ (bits >> 16)) * jnp.uint32(multiplier_1)
        bits = (bits ^ (bits >> 15)) * jnp.uint32(multiplier_2)
        bits = bits ^ (bits >> 16)
        if after is not None:
            bits = bits + after
    return bits


def random_bits(keys_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 bits of `shape`, whose first axis is the rows.

    Within a row, the index counts the other axes in row-major order.

    Raises:
        ValueError: a row has 2**32 entries or more, so its bits would repeat.
    """
    check_row(shape[1:])
    # One iota per axis, because a reshaped iota would be gathered from all devices.
    index = jnp.zeros((1,) * len(shape), jnp.uint32)
    for axis in range(1, len(shape)):
        along = [1] * len(shape)
        along[axis] = shape[axis]
        places = jax.lax.broadcasted_iota(jnp.uint32, along, axis)
        index = index * jnp.uint32(shape[axis]) + places
    words = jax.random.key_data(keys_B)
    first, second = (
        words[:, n].reshape(-1, *(1,) * (len(shape) - 1)) for n in range(2)
    )
    return hash_bits(index, first, second)


def check_row(shape: tuple[int, ...]) -> None:
    """Refuses a row of this shape if its random bits would repeat.

    Raises:
        ValueError: it has 2**32 entries or more.
    """
    if math.prod(shape) >= 2**32:
        raise ValueError(
            f"A row of shape {shape} has 2**32 entries or more, and its random "
            "bits would repeat; shorten the rows."
        )


def drop_threshold(rate: float) -> int:
    """A unit whose bits are below this number is dropped.

    `rate` is rounded to a multiple of 2**-32.
    """
    return round(rate * 2**32)


def are_kept(bits: jax.Array, rate: float) -> jax.Array:
    """Which units are kept, from the random bits of each, uint32; bool of their shape."""
    return bits >= jnp.uint32(drop_threshold(rate))


def kept_scale(rate: float) -> float:
    """The factor for units that are kept. It keeps the expected value unchanged."""
    return 1.0 / (1.0 - drop_threshold(rate) / 2**32)
