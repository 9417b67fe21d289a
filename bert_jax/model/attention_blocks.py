"""XLA's attention for long rows, with the scores of a block of queries in memory.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width,
K blocks of Q queries.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.config.compute import Products
from bert_jax.model.attention_xla import (
    bits_of_weights,
    gradients,
    mixture,
    weights,
)
from bert_jax.model.logical import num_parts
from bert_jax.model.random_bits import are_kept
from bert_jax.model.rows import may_see

# A block fits into the caches of a CPU: without a gradient attention takes half the time, and
# a training step as long as before. Compiled for a TPU v5e, a step moves half the bytes. No GPU
# has timed them. (benchmarks/LOG.md)
SHORTEST_IN_BLOCKS = 2_048
"""Tokens of the shortest row that has blocks."""
_BLOCK_SIZE = 256
# Sequence id of places behind the row, which see nothing.
_NOWHERE = -1


class _Of(NamedTuple):
    products: Products
    rate: float
    """The rate of dropped weights."""
    reach: int | None


def blocked_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    sequence_ids_BT: jax.Array,
    keys_B: jax.Array | None,
    dropout_rate: float,
    reach: int | None = None,
    products: Products = "auto",
    *,
    size: int,
) -> jax.Array:
    """`xla_attention` whose memory grows with T and not with its square.

    The backward pass computes the weights again, block by block.

    Args:
        size: Q. The other arguments are those of `xla_attention`.

    Source: Dao et al. 2022, "FlashAttention", section 3.1 (tiling and recomputation); here a
    tile has all keys.
    """
    num_rows, num_tokens = q_BTNH.shape[:2]
    num_blocks = -(-num_tokens // size)

    def blocks(x: jax.Array, filled: int = 0) -> jax.Array:
        """[B, T, ...] -> [K, B, Q, ...]"""
        missing = num_blocks * size - num_tokens
        pad = [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, pad, constant_values=filled)
        return x.reshape(x.shape[0], num_blocks, size, *x.shape[2:]).swapaxes(0, 1)

    rate = 0.0 if keys_B is None else dropout_rate
    out_KBNQH = _attend(
        _Of(products, rate, reach),
        blocks(q_BTNH).swapaxes(2, 3),
        k_BSNH.swapaxes(1, 2),
        v_BSNH.swapaxes(1, 2),
        (blocks(sequence_ids_BT, _NOWHERE), blocks(jnp.arange(num_tokens)[None])[:, 0]),
        sequence_ids_BT,
        None if keys_B is None or not rate else jax.random.key_data(keys_B),
    )
    out_BKQNH = out_KBNQH.transpose(1, 0, 3, 2, 4)
    return out_BKQNH.reshape(num_rows, -1, *out_BKQNH.shape[3:])[:, :num_tokens]


def block_size(num_tokens: int) -> int | None:
    """Queries of a block in rows of this length; `None` where all scores are in memory.

    A row that devices share has no blocks: each device has its part of the queries only, and
    the gradients of keys would be summed over the devices once a block.
    """
    is_long = num_tokens >= SHORTEST_IN_BLOCKS
    return _BLOCK_SIZE if is_long and num_parts("length") == 1 else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    of: _Of,
    q_KBNQH: jax.Array,
    k_BNSH: jax.Array,
    v_BNSH: jax.Array,
    places: tuple[jax.Array, jax.Array],
    ids_BS: jax.Array,
    words_B2: jax.Array | None,
) -> jax.Array:
    """The mixture of the values [K, B, N, Q, H].

    Args:
        of: static settings.
        q_KBNQH, k_BNSH, v_BNSH: queries, keys and values.
        places: the queries' sequence ids [K, B, Q] and places in the row [K, Q].
        ids_BS: the keys' sequence ids.
        words_B2: the words of the rows' keys, if weights are dropped.
    """

    def of_block(block: tuple[jax.Array, ...]) -> jax.Array:
        q_BNQH, *places = block
        probs_BNQS = _weights(of, q_BNQH, k_BNSH, v_BNSH, places, ids_BS, words_B2)
        return mixture(of[:2], probs_BNQS, v_BNSH)

    return jax.lax.map(of_block, (q_KBNQH, *places))


def _weights(
    of: _Of,
    q_BNQH: jax.Array,
    k_BNSH: jax.Array,
    v_BNSH: jax.Array,
    places: Sequence[jax.Array],
    ids_BS: jax.Array,
    words_B2: jax.Array | None,
) -> jax.Array:
    products, rate, reach = of
    ids_BQ, numbers_Q = places
    _, num_heads, num_tokens, _ = k_BNSH.shape
    numbers_S = jnp.arange(num_tokens)
    visible_BQS = may_see(
        ids_BQ[:, :, None],
        ids_BS[:, None],
        reach,
        numbers_Q[None, :, None],
        numbers_S[None, None],
    )
    kept_BNQS = None
    if words_B2 is not None:
        bits_BNQS = bits_of_weights(
            words_B2, num_heads, num_tokens, numbers_Q[:, None], numbers_S[None]
        )
        kept_BNQS = are_kept(bits_BNQS, rate)
    return weights(
        products, q_BNQH, k_BNSH, v_BNSH.dtype, visible_BQS[:, None], kept_BNQS
    )


def _forward(of: _Of, *given: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    out_KBNQH = _attend(of, *given)
    return out_KBNQH, (*given, out_KBNQH)


def _backward(
    of: _Of, saved: tuple[Any, ...], d_out_KBNQH: jax.Array
) -> tuple[jax.Array | None, ...]:
    q_KBNQH, k_BNSH, v_BNSH, places, *others, out_KBNQH = saved

    def of_block(
        sums: tuple[jax.Array, ...], block: tuple[Any, ...]
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        q_BNQH, out_BNQH, d_out_BNQH, *places = block
        probs_BNQS = _weights(of, q_BNQH, k_BNSH, v_BNSH, places, *others)
        block_saved = (q_BNQH, k_BNSH, v_BNSH, probs_BNQS, out_BNQH)
        d_q_BNQH, *more = gradients(of[:2], block_saved, d_out_BNQH)
        return tuple(x + y for x, y in zip(sums, more, strict=True)), d_q_BNQH

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k_BNSH, v_BNSH))
    (d_k_BNSH, d_v_BNSH), d_q_KBNQH = jax.lax.scan(
        of_block, zeros, (q_KBNQH, out_KBNQH, d_out_KBNQH, *places)
    )
    d_k_BNSH, d_v_BNSH = d_k_BNSH.astype(k_BNSH.dtype), d_v_BNSH.astype(v_BNSH.dtype)
    return d_q_KBNQH, d_k_BNSH, d_v_BNSH, None, None, None


_attend.defvjp(_forward, _backward)
