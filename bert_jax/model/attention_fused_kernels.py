"""The two Pallas kernels of fused attention: what one TPU core does for a row.

A step takes a block of queries, all keys of the row and a group of heads. It goes
through the group tile by tile; a tile is the heads that lie side by side in 128 lanes. A
product for one head covers the whole tile, with the lanes of the other heads zeroed. The
matrix unit is at least 128 wide, so this costs nothing, and no memory is transposed.

Scores have keys in sublanes and queries in lanes. Therefore the maximum and the sum over
the keys go between registers instead of across lanes.

Shape suffixes: T queries in the block, S keys, W lanes in a tile.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from bert_jax.model.attention_parts import Ref, dot
from bert_jax.model.random_bits import are_kept, hash_bits, kept_scale
from bert_jax.model.rows import MASKED_SCORE, may_see


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes that do not change while a kernel runs."""

    head_size: int
    tile_heads: int
    """Number of heads in a tile."""
    tiles: int
    """Number of tiles in a step."""
    query_block: int
    """Number of queries in a step."""
    num_keys: int
    """Number of keys in a row without padding, which is the number of queries in the row
    on all devices together."""
    dropout_rate: float
    reach: int | None = None
    """How many tokens away a token sees; None: its whole sequence."""

    @property
    def tile_width(self) -> int:
        return self.tile_heads * self.head_size


def forward_kernel(
    tiling: Tiling,
    words: Ref,
    heads: Ref,
    first: Ref,
    q: Ref,
    k: Ref,
    v: Ref,
    q_ids: Ref,
    k_ids: Ref,
    out: Ref,
) -> None:
    """Writes the block's part of `out`.

    Args:
        tiling: static.
        words: uint32 [2 B] in scalar memory, two words of each row's random key.
        heads: int32 [N] in scalar memory, the numbers of these heads in the whole model.
        first: int32 [1] in scalar memory, the position of this device's first query.
        q, out: [1, T, tiles * W].
        k, v: [1, S, tiles * W].
        q_ids: int32 [1, 1, T], sequence ids of the queries.
        k_ids: int32 [1, 1, S], sequence ids of the keys.
    """
    visible_ST = _visible(tiling, first, q_ids, k_ids)
    kept = _dropout(tiling, words, heads, first, visible_ST.shape)

    def tile(number: jax.Array, _: None) -> None:
        lanes = _lanes(tiling, number)
        q_TW, k_SW, v_SW = (x[0, :, lanes] for x in (q, k, v))
        out_WT = jnp.zeros(q_TW.shape[::-1], jnp.float32)
        for slot in range(tiling.tile_heads):
            exp_ST, sum_1T = _weights(
                tiling, _only(tiling, slot, q_TW), k_SW, visible_ST
            )
            if tiling.dropout_rate:
                exp_ST = jnp.where(kept(number, slot), exp_ST, 0.0)
            head_WT = dot(_only(tiling, slot, v_SW), exp_ST.astype(v_SW.dtype), 0, 0)
            out_WT += head_WT * (kept_scale(tiling.dropout_rate) / sum_1T)
        out[0, :, lanes] = out_WT.T.astype(out.dtype)

    jax.lax.fori_loop(0, tiling.tiles, tile, None)


def backward_kernel(
    tiling: Tiling,
    words: Ref,
    heads: Ref,
    first: Ref,
    q: Ref,
    k: Ref,
    v: Ref,
    q_ids: Ref,
    k_ids: Ref,
    d_out: Ref,
    dq: Ref,
    dk: Ref,
    dv: Ref,
    dk_sum: Ref,
    dv_sum: Ref,
) -> None:
    """Writes the block's part of `dq`, and after the last block `dk` and `dv`.

    The arguments are those of `forward_kernel`, and

        d_out, dq: as `q`.
        dk, dv: as `k`.
        dk_sum, dv_sum: float32 [S, tiles * W], scratch memory.

    Source: Vaswani et al. 2017, section 3.2.1, differentiated; the weights are computed
    again as in Dao et al. 2022, section 3.1.
    """
    visible_ST = _visible(tiling, first, q_ids, k_ids)
    kept = _dropout(tiling, words, heads, first, visible_ST.shape)
    dtype = q.dtype

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    def tile(number: jax.Array, _: None) -> None:
        lanes = _lanes(tiling, number)
        q_TW, k_SW, v_SW, d_out_TW = (x[0, :, lanes] for x in (q, k, v, d_out))
        dq_WT = jnp.zeros(q_TW.shape[::-1], jnp.float32)
        for slot in range(tiling.tile_heads):
            only_q_TW, only_d_out_TW = (
                _only(tiling, slot, x) for x in (q_TW, d_out_TW)
            )
            exp_ST, sum_1T = _weights(tiling, only_q_TW, k_SW, visible_ST)
            weight_ST = exp_ST / sum_1T
            d_weight_ST = dot(v_SW, only_d_out_TW, 1, 1)
            dropped_ST = weight_ST
            if tiling.dropout_rate:
                kept_ST = kept(number, slot)
                scale = kept_scale(tiling.dropout_rate)
                dropped_ST = jnp.where(kept_ST, weight_ST * scale, 0.0)
                d_weight_ST = jnp.where(kept_ST, d_weight_ST * scale, 0.0)
            mean_1T = jnp.sum(d_weight_ST * weight_ST, axis=0, keepdims=True)
            d_score_ST = weight_ST * (d_weight_ST - mean_1T)
            d_score_ST = (d_score_ST / math.sqrt(tiling.head_size)).astype(dtype)
            dv_sum[:, lanes] += dot(dropped_ST.astype(dtype), only_d_out_TW, 1, 0)
            dk_sum[:, lanes] += dot(d_score_ST, only_q_TW, 1, 0)
            dq_WT += dot(_only(tiling, slot, k_SW), d_score_ST, 0, 0)
        dq[0, :, lanes] = dq_WT.T.astype(dtype)

    jax.lax.fori_loop(0, tiling.tiles, tile, None)

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        dk[0] = dk_sum[...].astype(dtype)
        dv[0] = dv_sum[...].astype(dtype)


def _lanes(tiling: Tiling, number: jax.Array) -> pl.Slice | slice:
    """The lanes of one tile of the group."""
    if tiling.tiles == 1:
        return slice(None)
    return pl.ds(pl.multiple_of(number * tiling.tile_width, 128), tiling.tile_width)


def _only(tiling: Tiling, slot: int, x_TW: jax.Array) -> jax.Array:
    """Zeroes the lanes of a tile's other heads."""
    if tiling.tile_heads == 1:
        return x_TW
    head = jax.lax.broadcasted_iota(jnp.int32, x_TW.shape, 1) // tiling.head_size
    return jnp.where(head == slot, x_TW, jnp.zeros_like(x_TW))


def _visible(tiling: Tiling, first: Ref, q_ids: Ref, k_ids: Ref) -> jax.Array:
    """bool [S, T], true where the query may see the key."""
    k_ids_S1 = jnp.broadcast_to(k_ids[0], (128, k_ids.shape[2])).T[:, :1]
    key_ST, query_ST = _places(tiling, first, (k_ids.shape[2], q_ids.shape[2]))
    return may_see(q_ids[0], k_ids_S1, tiling.reach, query_ST, key_ST)


def _places(
    tiling: Tiling, first: Ref, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The places of keys and queries in the whole row, int32 [S, T] each."""
    key_ST, query_ST = (jax.lax.broadcasted_iota(jnp.int32, shape, n) for n in (0, 1))
    return key_ST, query_ST + first[0] + pl.program_id(2) * tiling.query_block


def _weights(
    tiling: Tiling, q_TW: jax.Array, k_SW: jax.Array, visible_ST: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """exp(score - maximum), float32 [S, T], and its sum over the keys, [1, T]."""
    score_ST = dot(k_SW, q_TW, 1, 1) / math.sqrt(tiling.head_size)
    score_ST = jnp.where(visible_ST, score_ST, MASKED_SCORE)
    exp_ST = jnp.exp(score_ST - jnp.max(score_ST, axis=0, keepdims=True))
    return exp_ST, jnp.sum(exp_ST, axis=0, keepdims=True)


def _dropout(
    tiling: Tiling, words: Ref, heads: Ref, first: Ref, shape: tuple[int, ...]
) -> Callable[[jax.Array, int], jax.Array]:
    """kept(tile, slot) -> bool [S, T]: what `drop_units` keeps of [B, N, T, S]."""
    row, group = (pl.program_id(n) for n in range(2))
    key_ST, query_ST = _places(tiling, first, shape)
    place_ST = query_ST * tiling.num_keys + key_ST

    def kept(tile: jax.Array, slot: int) -> jax.Array:
        head = heads[(group * tiling.tiles + tile) * tiling.tile_heads + slot]
        index_ST = place_ST + head * (tiling.num_keys * tiling.num_keys)
        bits_ST = hash_bits(
            index_ST.astype(jnp.uint32), words[2 * row], words[2 * row + 1]
        )
        return are_kept(bits_ST, tiling.dropout_rate)

    return kept
