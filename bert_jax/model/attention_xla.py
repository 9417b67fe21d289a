"""Attention as plain array operations, which XLA compiles for every device.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width,
K blocks of Q tokens.
"""

import functools
import math

import jax
import jax.numpy as jnp

from bert_jax.config.compute import Products
from bert_jax.model.products import product, product_gradients
from bert_jax.model.random_bits import (
    are_kept,
    check_row,
    hash_bits,
    kept_scale,
    random_bits,
)
from bert_jax.model.rows import MASKED_SCORE, may_see

# Sequence id of the places before and behind a row; no token has it.
_NOWHERE = -1
_LARGEST = float(jnp.finfo(jnp.float32).max)


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
    q_BNTH, k_BNSH, v_BNSH = (x.swapaxes(1, 2) for x in (q_BTNH, k_BSNH, v_BSNH))
    rate = 0.0 if keys_B is None else dropout_rate
    kept_BNTS = None
    if keys_B is not None and rate:
        shape = (*q_BNTH.shape[:3], k_BNSH.shape[2])
        kept_BNTS = are_kept(random_bits(keys_B, shape), rate)
    of = (products, rate)
    visible_B1TS = visible_BTS[:, None]
    return _attend(of, q_BNTH, k_BNSH, v_BNSH, visible_B1TS, kept_BNTS).swapaxes(1, 2)


def banded_attention(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    sequence_ids_BT: jax.Array,
    keys_B: jax.Array | None,
    dropout_rate: float,
    reach: int,
    products: Products = "auto",
) -> jax.Array:
    """`xla_attention` with a window, whose cost grows with T and not with its square.

    A block of half a reach of queries sees the two blocks of keys on each side, so 2.5
    times `reach` scores are computed for a query, which needs 2 * reach + 1.
    """
    num_rows, num_tokens, num_heads, _ = q_BTNH.shape
    size, sides = block_of(reach)
    num_blocks = -(-num_tokens // size)
    missing = num_blocks * size - num_tokens
    near = (2 * sides + 1) * size

    def own(x: jax.Array, filled: int = 0) -> jax.Array:
        """[B, N, T, ...] -> [B, N, K, Q, ...]"""
        pad = [(0, 0), (0, 0), (0, missing), *[(0, 0)] * (x.ndim - 3)]
        x = jnp.pad(x, pad, constant_values=filled)
        return x.reshape(*x.shape[:2], num_blocks, size, *x.shape[3:])

    def neighbours(x: jax.Array, filled: int = 0) -> jax.Array:
        """[B, N, T, ...] -> [B, N, K, S, ...]"""
        pad = [(0, 0), (0, 0), (sides, sides), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(own(x, filled), pad, constant_values=filled)
        shifted = [x[:, :, at : at + num_blocks] for at in range(2 * sides + 1)]
        return jnp.concatenate(shifted, axis=3)

    ids_B1T = sequence_ids_BT[:, None]
    starts_K11 = jnp.arange(num_blocks)[:, None, None] * size
    query_KQ1 = starts_K11 + jnp.arange(size)[None, :, None]
    key_K1S = starts_K11 + jnp.arange(near)[None, None] - sides * size
    visible_B1KQS = may_see(
        own(ids_B1T)[..., None],
        neighbours(ids_B1T, _NOWHERE)[:, :, :, None],
        reach,
        query_KQ1[None, None],
        key_K1S[None, None],
    )
    rate = 0.0 if keys_B is None else dropout_rate
    kept_BNKQS = None
    if keys_B is not None and rate:
        words_B2 = jax.random.key_data(keys_B)
        kept_BNKQS = are_kept(
            bits_of_weights(words_B2, num_heads, num_tokens, query_KQ1, key_K1S), rate
        )
    q_BNTH, k_BNTH, v_BNTH = (x.swapaxes(1, 2) for x in (q_BTNH, k_BTNH, v_BTNH))
    out_BNKQH = _attend(
        (products, rate),
        own(q_BNTH),
        neighbours(k_BNTH),
        neighbours(v_BNTH),
        visible_B1KQS,
        kept_BNKQS,
    )
    out_BNTH = out_BNKQH.reshape(num_rows, num_heads, num_blocks * size, -1)
    return out_BNTH[:, :, :num_tokens].swapaxes(1, 2)


def bits_of_weights(
    words_B2: jax.Array,
    num_heads: int,
    num_tokens: int,
    queries: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    """The bits of the same weights as `random_bits` draws for [B, N, T, T].

    Args:
        words_B2: uint32, the words of the rows' keys.
        num_heads: N.
        num_tokens: T.
        queries, keys: int32 places in the row, which broadcast to [..., Q, S].

    Returns:
        uint32 [B, N, ..., Q, S]

    Raises:
        ValueError: the bits of a row would repeat.
    """
    check_row((num_heads, num_tokens, num_tokens))
    heads = jnp.arange(num_heads).reshape(-1, *[1] * queries.ndim)
    queries, keys = queries[None], keys[None]
    index = ((heads * num_tokens + queries) * num_tokens + keys).astype(jnp.uint32)
    words = words_B2.reshape(-1, *[1] * index.ndim, 2)
    return hash_bits(index[None], words[..., 0], words[..., 1])


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


# The gradients are written out, because those that JAX derives keep two arrays of scores in
# float32, and sum over the keys. The sum of the weights times their gradients is also that
# of the output times its gradient (Dao et al. 2022, "FlashAttention", appendix B.4).
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    of: tuple[Products, float],
    q_TH: jax.Array,
    k_SH: jax.Array,
    v_SH: jax.Array,
    visible_TS: jax.Array,
    kept_TS: jax.Array | None,
) -> jax.Array:
    """The mixture of the values [..., T, H]; the arrays' leading axes are alike.

    Args:
        of: who multiplies matrices, and the rate of dropped weights.
        q_TH, k_SH, v_SH: queries, keys and values.
        visible_TS: which keys a query sees.
        kept_TS: which weights are not dropped; `None` keeps all.
    """
    return _attend_forward(of, q_TH, k_SH, v_SH, visible_TS, kept_TS)[0]


def _attend_forward(
    of: tuple[Products, float],
    q_TH: jax.Array,
    k_SH: jax.Array,
    v_SH: jax.Array,
    visible_TS: jax.Array,
    kept_TS: jax.Array | None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    probs_TS = weights(of[0], q_TH, k_SH, v_SH.dtype, visible_TS, kept_TS)
    out_TH = mixture(of, probs_TS, v_SH)
    return out_TH, (q_TH, k_SH, v_SH, probs_TS, out_TH)


def weights(
    products: Products,
    q_TH: jax.Array,
    k_SH: jax.Array,
    dtype: jnp.dtype,
    visible_TS: jax.Array,
    kept_TS: jax.Array | None,
) -> jax.Array:
    """The attention weights [..., T, S] in `dtype`; those that are dropped are negative.

    The sign saves the gradient a second array. The arguments are those of `_attend`.
    """
    scores_TS = product(
        q_TH, k_SH, transposed=True, out_dtype=jnp.float32, products=products
    )
    scores_TS = jnp.where(visible_TS, scores_TS, MASKED_SCORE)
    below_TS = scores_TS - scores_TS.max(axis=-1, keepdims=True)
    exps_TS = jnp.exp(below_TS / math.sqrt(q_TH.shape[-1]))
    sum_T1 = _apart(exps_TS.sum(axis=-1, keepdims=True))
    probs_TS = (exps_TS / sum_T1).astype(dtype)
    return probs_TS if kept_TS is None else jnp.where(kept_TS, probs_TS, -probs_TS)


def mixture(
    of: tuple[Products, float], probs_TS: jax.Array, v_SH: jax.Array
) -> jax.Array:
    """The values by the weights of `weights` that are not dropped, [..., T, H]."""
    return product(_kept(probs_TS, of[1]), v_SH, products=of[0])


def gradients(
    of: tuple[Products, float], saved: tuple[jax.Array, ...], d_out_TH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of queries, keys and values.

    Args:
        of: as for `_attend`.
        saved: queries, keys, values, `weights` and `mixture`.
        d_out_TH: the gradient of the mixture.
    """
    products, rate = of
    q_TH, k_SH, v_SH, probs_TS, out_TH = saved
    d_probs_TS, d_v_SH = product_gradients(
        _kept(probs_TS, rate), v_SH, d_out_TH, products=products
    )
    if rate:
        d_probs_TS = jnp.where(probs_TS > 0.0, d_probs_TS * kept_scale(rate), 0.0)
    products_TH = d_out_TH.astype(jnp.float32) * out_TH
    mean_T1 = _apart(products_TH.sum(axis=-1, keepdims=True))
    d_scores_TS = jnp.abs(probs_TS) * (d_probs_TS - mean_T1)
    d_scores_TS = d_scores_TS / math.sqrt(q_TH.shape[-1])
    d_q_TH, d_k_SH = product_gradients(
        q_TH, k_SH, d_scores_TS, transposed=True, products=products
    )
    return d_q_TH, d_k_SH, d_v_SH


def _apart(x: jax.Array) -> jax.Array:
    """A finite `x`, which XLA for CPU does not compute together with what uses it.

    With a sum over the keys, it makes the rest of the line at half the usual speed.
    """
    return jnp.clip(x, -_LARGEST, _LARGEST)


def _kept(probs_TS: jax.Array, rate: float) -> jax.Array:
    """Those that are not dropped, which stand for the others too."""
    if not rate:
        return probs_TS
    return (jnp.maximum(probs_TS, 0.0) * kept_scale(rate)).astype(probs_TS.dtype)


def _attend_backward(
    of: tuple[Products, float], saved: tuple[jax.Array, ...], d_out_TH: jax.Array
) -> tuple[jax.Array | None, ...]:
    return (*gradients(of, saved, d_out_TH), None, None)


_attend.defvjp(_attend_forward, _attend_backward)
