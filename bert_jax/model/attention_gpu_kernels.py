"""The two Pallas kernels of attention for NVIDIA GPUs: what one thread block does.

Forward: for a block of queries of one head, the kernel goes through the blocks of keys
with a running maximum and sum (Dao 2023). Backward: for a block of keys, the kernel goes
through the blocks of queries, computes their weights again from the saved logarithm of
the sum, and adds up the gradients of its keys and values. It writes its part of the
queries' gradient to a place of its own. So no two thread blocks write to one place, and
no bit depends on their order.

The kernels compute powers of 2 instead of e, because the chip does.

Shape suffixes: T queries, S keys, H head width.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from bert_jax.model.attention_parts import Ref, dot
from bert_jax.model.random_bits import are_kept, hash_bits, kept_scale
from bert_jax.model.rows import MASKED_SCORE, may_see

# The running maximum starts here: below any score, but so far above a masked score that
# a masked weight is exactly 0 even if no key has been seen yet.
_NO_SCORE = MASKED_SCORE / 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sizes of the blocks: powers of two, 16 tokens or more.

    Raises:
        ValueError: Triton cannot multiply blocks of such a size.
    """

    query: int = 64
    """Queries of a thread block of the forward kernel."""
    key: int = 64
    """Keys that the forward kernel takes at a time."""
    num_warps: int = 4
    num_stages: int = 2
    """Number of loads that are under way at once."""
    back_key: int = 128
    """Keys of a thread block of the backward kernel."""
    back_query: int = 64
    """Queries that the backward kernel takes at a time."""
    back_num_warps: int = 8
    back_num_stages: int = 2

    def __post_init__(self) -> None:
        for name in ("query", "key", "back_key", "back_query"):
            size = getattr(self, name)
            if size < 16 or size & (size - 1):
                raise ValueError(
                    f"Blocks.{name}={size} is a size that Triton cannot multiply; give "
                    "a power of two of 16 or more."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes that do not change while a kernel runs."""

    blocks: Blocks
    num_keys: int
    """Number of keys in a row without padding, which is the number of queries in the row
    on all devices together."""
    dropout_rate: float
    reach: int | None = None
    """How many tokens away a token sees; None: its whole sequence."""


def forward_kernel(
    tiling: Tiling,
    words: Ref,
    heads: Ref,
    first: Ref,
    bounds: Ref,
    q_ids: Ref,
    k_ids: Ref,
    q: Ref,
    k: Ref,
    v: Ref,
    out: Ref,
    log_sum: Ref,
) -> None:
    """Writes `out` and `log_sum` for a block of queries of one head.

    Args:
        tiling: static.
        words: uint32 [2], the two words of the row's random key.
        heads: int32 [1], the number of this head in the whole model.
        first: int32 [1], the position of this device's first query.
        bounds: int32 [2], the first block of keys to take and the one to stop before.
        q_ids: int32 [T], sequence ids of the block's queries.
        k_ids: int32 [S], sequence ids of the row's keys.
        q, out: [T, H] of the block.
        k, v: [S, H] of the row.
        log_sum: float32 [T] of the block, base-2 logarithm of the sum of exp(scores).

    Source: Dao 2023, "FlashAttention-2", algorithm 1; the dropout is our own.
    """
    blocks = tiling.blocks
    q_TH, q_ids_T = q[...], q_ids[...]
    queries_T = _numbers(pl.program_id(0) * blocks.query, blocks.query)
    scale = math.log2(math.e) / math.sqrt(q_TH.shape[1])

    def take_keys(
        number: jax.Array, sums: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        top_T, sum_T, out_TH = sums
        at = pl.ds(number * blocks.key, blocks.key)
        v_SH = v[at, :]
        score_TS = dot(q_TH, k[at, :], 1, 1)
        keys_S = _numbers(number * blocks.key, blocks.key)
        visible_TS = may_see(
            q_ids_T[:, None],
            k_ids[at][None, :],
            tiling.reach,
            first[0] + queries_T[:, None],
            keys_S[None, :],
        )
        score_TS = jnp.where(visible_TS, score_TS, MASKED_SCORE)
        new_top_T = jnp.maximum(top_T, jnp.max(score_TS, axis=1))
        exp_TS = jnp.exp2(score_TS * scale - (new_top_T * scale)[:, None])
        fade_T = jnp.exp2((top_T - new_top_T) * scale)
        sum_T = sum_T * fade_T + jnp.sum(exp_TS, axis=1)
        if tiling.dropout_rate:
            row_T1 = _row(tiling, heads, first, queries_T)[:, None]
            exp_TS = jnp.where(
                _kept(tiling, words, row_T1, keys_S[None, :]), exp_TS, 0.0
            )
        out_TH = out_TH * fade_T[:, None] + dot(exp_TS.astype(v.dtype), v_SH, 1, 0)
        return new_top_T, sum_T, out_TH

    zeros_T = jnp.zeros_like(q_ids_T, jnp.float32)
    start = (zeros_T + _NO_SCORE, zeros_T, jnp.zeros(q_TH.shape, jnp.float32))
    top_T, sum_T, out_TH = jax.lax.fori_loop(bounds[0], bounds[1], take_keys, start)
    # A query of the padding may see no key: its result is 0, not NaN.
    sum_T = jnp.where(sum_T > 0.0, sum_T, 1.0)
    log_sum[...] = top_T * scale + jnp.log2(sum_T)
    factor_T = kept_scale(tiling.dropout_rate) / sum_T
    out[...] = (out_TH * factor_T[:, None]).astype(out.dtype)


def backward_kernel(
    tiling: Tiling,
    words: Ref,
    heads: Ref,
    first: Ref,
    bounds: Ref,
    q_ids: Ref,
    k_ids: Ref,
    q: Ref,
    k: Ref,
    v: Ref,
    log_sum: Ref,
    mean: Ref,
    d_out: Ref,
    dq: Ref,
    dk: Ref,
    dv: Ref,
) -> None:
    """Writes `dk` and `dv` for a block of keys of one head, and its part of `dq`.

    The arguments are those of `forward_kernel`, but

        bounds: int32 [2], the first block of queries to take and the one to stop before.
        q_ids: int32 [T], sequence ids of the row's queries.
        k_ids: int32 [S], sequence ids of the block's keys.
        q, d_out: [T, H] of the row.
        k, v, dk, dv: [S, H] of the block.
        log_sum: float32 [T] of the row.
        mean: float32 [T] of the row, sums of out * d_out over H.
        dq: [T, H] of the row, this block's part.

    Source: Dao 2023, "FlashAttention-2", algorithm 2; the dropout is our own.
    """
    blocks = tiling.blocks
    k_SH, v_SH, k_ids_S = k[...], v[...], k_ids[...]
    keys_S = _numbers(pl.program_id(0) * blocks.back_key, blocks.back_key)
    width = k_SH.shape[1]
    scale = math.log2(math.e) / math.sqrt(width)
    kept_by = kept_scale(tiling.dropout_rate)
    # Both factors of a score's gradient, applied once to the sums.
    factor = kept_by / math.sqrt(width)

    def nothing(number: jax.Array, _: None) -> None:
        at = pl.ds(number * blocks.back_query, blocks.back_query)
        dq[at, :] = jnp.zeros((blocks.back_query, width), dq.dtype)

    def take_queries(
        number: jax.Array, sums: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        dk_SH, dv_SH = sums
        at = pl.ds(number * blocks.back_query, blocks.back_query)
        q_TH, d_out_TH = q[at, :], d_out[at, :]
        queries_T = _numbers(number * blocks.back_query, blocks.back_query)
        visible_ST = may_see(
            q_ids[at][None, :],
            k_ids_S[:, None],
            tiling.reach,
            first[0] + queries_T[None, :],
            keys_S[:, None],
        )
        score_ST = dot(k_SH, q_TH, 1, 1) * scale - log_sum[at][None, :]
        weight_ST = jnp.exp2(jnp.where(visible_ST, score_ST, MASKED_SCORE))
        d_weight_ST = dot(v_SH, d_out_TH, 1, 1)
        dropped_ST = weight_ST
        if tiling.dropout_rate:
            row_1T = _row(tiling, heads, first, queries_T)[None, :]
            kept_ST = _kept(tiling, words, row_1T, keys_S[:, None])
            dropped_ST = jnp.where(kept_ST, weight_ST, 0.0)
            d_weight_ST = jnp.where(kept_ST, d_weight_ST, 0.0)
        dv_SH += dot(dropped_ST.astype(v.dtype), d_out_TH, 1, 0)
        # `factor` later scales by `kept_by`, so the mean must not be scaled yet.
        mean_1T = (mean[at] * (1.0 / kept_by))[None, :]
        d_score_ST = weight_ST * (d_weight_ST - mean_1T)
        d_score_ST = d_score_ST.astype(q.dtype)
        dk_SH += dot(d_score_ST, q_TH, 1, 0)
        dq_TH = dot(d_score_ST, k_SH, 0, 0) * factor
        dq[at, :] = dq_TH.astype(dq.dtype)
        return dk_SH, dv_SH

    jax.lax.fori_loop(0, bounds[0], nothing, None)
    zeros_SH = jnp.zeros(k_SH.shape, jnp.float32)
    dk_SH, dv_SH = jax.lax.fori_loop(
        bounds[0], bounds[1], take_queries, (zeros_SH, zeros_SH)
    )
    jax.lax.fori_loop(bounds[1], q.shape[0] // blocks.back_query, nothing, None)
    dk[...] = (dk_SH * factor).astype(dk.dtype)
    dv[...] = (dv_SH * kept_by).astype(dv.dtype)


def _numbers(start: jax.Array, size: int) -> jax.Array:
    """int32 [size], counted up from `start`."""
    return start + jnp.arange(size, dtype=jnp.int32)


def _row(tiling: Tiling, heads: Ref, first: Ref, queries_T: jax.Array) -> jax.Array:
    """uint32 [T], the index of each query's first weight among the row's weights."""
    rows_T = heads[0] * tiling.num_keys + first[0] + queries_T
    return rows_T.astype(jnp.uint32) * jnp.uint32(tiling.num_keys)


def _kept(tiling: Tiling, words: Ref, row: jax.Array, keys: jax.Array) -> jax.Array:
    """Which weights stay: the same as `drop_units` keeps of weights [B, N, T, S]."""
    bits = hash_bits(row + keys.astype(jnp.uint32), words[0], words[1])
    return are_kept(bits, tiling.dropout_rate)
