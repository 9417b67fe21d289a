"""Attention as plain array operations, which XLA compiles for every device.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width,
K blocks of Q tokens.
"""

import math

import jax
import jax.numpy as jnp

from bert_jax.config.compute import Products
from bert_jax.model.dropout import drop_by_bits, drop_units
from bert_jax.model.products import is_onednns, product
from bert_jax.model.random_bits import hash_bits
from bert_jax.model.rows import MASKED_SCORE, may_see

# Sequence id of the places before and behind a row; no token has it.
_NOWHERE = -1


def xla_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    sequence_ids_BT: jax.Array,
    keys_B: jax.Array | None,
    dropout_rate: float,
    reach: int | None = None,
    products: Products = "auto",
) -> jax.Array:
    """`attention.attend` with all scores of a row in memory. Returns [B, T, N, H].

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    numbers_T = jnp.arange(q_BTNH.shape[1])
    visible_BTS = may_see(
        sequence_ids_BT[:, :, None],
        sequence_ids_BT[:, None, :],
        reach,
        numbers_T[None, :, None],
        numbers_T[None, None, :],
    )
    # XLA's own products of heads with bfloat16 are the slowest part of a step on CPU.
    by_onednn = is_onednns(q_BTNH.dtype, products, k_BSNH.shape[1::2])
    if by_onednn:
        q_BNTH, k_BNSH = (x.swapaxes(1, 2) for x in (q_BTNH, k_BSNH))
        scores_BNTS = product(q_BNTH, k_BNSH, transposed=True, out_dtype=jnp.float32)
    else:
        scores_BNTS = jnp.einsum(
            "BTNH,BSNH->BNTS", q_BTNH, k_BSNH, preferred_element_type=jnp.float32
        )
    scores_BNTS = jnp.where(
        visible_BTS[:, None], scores_BNTS / math.sqrt(q_BTNH.shape[-1]), MASKED_SCORE
    )
    probs_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(v_BSNH.dtype)
    probs_BNTS = drop_units(probs_BNTS, dropout_rate, keys_B)
    if by_onednn:
        return product(probs_BNTS, v_BSNH.swapaxes(1, 2)).swapaxes(1, 2)
    return jnp.einsum("BNTS,BSNH->BTNH", probs_BNTS, v_BSNH)


def banded_attention(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    sequence_ids_BT: jax.Array,
    keys_B: jax.Array | None,
    dropout_rate: float,
    reach: int,
) -> jax.Array:
    """`xla_attention` with a window, whose cost grows with T and not with its square.

    A block of half a reach of queries sees the two blocks of keys on each side, so 2.5
    times `reach` scores are computed for a query, which needs 2 * reach + 1.
    """
    num_rows, num_tokens, num_heads, width = q_BTNH.shape
    size, sides = block_of(reach)
    num_blocks = -(-num_tokens // size)
    missing = num_blocks * size - num_tokens
    near = (2 * sides + 1) * size

    def own(x: jax.Array, filled: int = 0) -> jax.Array:
        """[B, T, ...] -> [B, K, Q, ...]"""
        pad = [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, pad, constant_values=filled)
        return x.reshape(num_rows, num_blocks, size, *x.shape[2:])

    def neighbours(x: jax.Array, filled: int = 0) -> jax.Array:
        """[B, T, ...] -> [B, K, near, ...]"""
        pad = [(0, 0), (sides, sides), *[(0, 0)] * (x.ndim - 1)]
        x = jnp.pad(own(x, filled), pad, constant_values=filled)
        shifted = [x[:, at : at + num_blocks] for at in range(2 * sides + 1)]
        return jnp.concatenate(shifted, axis=2)

    ids_BKQ = own(sequence_ids_BT)
    near_ids_BKS = neighbours(sequence_ids_BT, _NOWHERE)
    starts_K11 = jnp.arange(num_blocks)[:, None, None] * size
    query_KQ1 = starts_K11 + jnp.arange(size)[None, :, None]
    key_K1S = starts_K11 + jnp.arange(near)[None, None] - sides * size
    visible_BKQS = may_see(
        ids_BKQ[..., None],
        near_ids_BKS[:, :, None],
        reach,
        query_KQ1[None],
        key_K1S[None],
    )
    scores_BKNQS = jnp.einsum(
        "BKQNH,BKSNH->BKNQS",
        own(q_BTNH),
        neighbours(k_BTNH),
        preferred_element_type=jnp.float32,
    )
    scores_BKNQS = jnp.where(
        visible_BKQS[:, :, None], scores_BKNQS / math.sqrt(width), MASKED_SCORE
    )
    probs_BKNQS = jax.nn.softmax(scores_BKNQS, axis=-1).astype(v_BTNH.dtype)
    if keys_B is not None and dropout_rate:
        # The bits of the same weights as `drop_units` draws for [B, N, T, S].
        head_N = jnp.arange(num_heads)[None, :, None, None]
        row_KNQ1 = head_N * num_tokens + query_KQ1[:, None]
        index_KNQS = (row_KNQ1 * num_tokens + key_K1S[:, None]).astype(jnp.uint32)
        words_B2 = jax.random.key_data(keys_B)[:, None, None, None, None]
        bits = hash_bits(index_KNQS[None], words_B2[..., 0], words_B2[..., 1])
        probs_BKNQS = drop_by_bits(probs_BKNQS, dropout_rate, bits)
    out_BKQNH = jnp.einsum("BKNQS,BKSNH->BKQNH", probs_BKNQS, neighbours(v_BTNH))
    out_BTNH = out_BKQNH.reshape(num_rows, num_blocks * size, num_heads, width)
    return out_BTNH[:, :num_tokens]


def block_of(reach: int) -> tuple[int, int]:
    """Tokens of a block of `banded_attention`, and the blocks that it sees on each side."""
    size = max(8, reach // 2)
    return size, -(-reach // size)


def is_banded(reach: int | None, num_tokens: int) -> bool:
    """Whether `banded_attention` computes at most half as many scores as `xla_attention`."""
    if reach is None:
        return False
    size, sides = block_of(reach)
    return 2 * (2 * sides + 1) * size <= num_tokens
