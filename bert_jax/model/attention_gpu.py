"""Our Pallas attention kernel for NVIDIA GPUs, compiled by Triton.

Neither scores nor weights are stored: the backward pass computes them and the dropout
bits again. All kernels use the same dropout bits: they depend on the row's key, the
head, the query and the key only. Blocks that share no sequence are skipped. Every sum
has a fixed order, so that the same inputs give the same bits.

JAX 0.11 announces that it will drop Pallas' Triton backend some day. It points to
`jax_triton` and to Pallas' Mosaic GPU backend instead.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from bert_jax.model.attention_gpu_kernels import (
    Blocks,
    Tiling,
    backward_kernel,
    forward_kernel,
)
from bert_jax.model.attention_parts import NO_SEQUENCE, filled
from bert_jax.model.rows import may_see

_WIDTHS = (16, 32, 64, 128)
# Keyed by the bytes that one token of one head takes.
_BLOCKS = {
    128: Blocks(),
    256: Blocks(back_query=32),
    512: Blocks(key=32, back_key=32, back_query=32),
}


def triton_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    q_ids_BT: jax.Array,
    k_ids_BS: jax.Array,
    words_B2: jax.Array,
    heads_N: jax.Array,
    queries_T: jax.Array,
    *,
    dropout_rate: float,
    reach: int | None = None,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attend` on one device, which may hold only some rows, heads and queries.

    Args:
        q_BTNH, k_BSNH, v_BSNH: float32 or bfloat16. All keys of these rows must be here.
        q_ids_BT, k_ids_BS: int32 sequence ids; a query sees the keys with its own id.
        words_B2: uint32, the two words of each row's random key.
        heads_N: int32, the numbers of these heads in the whole model.
        queries_T: int32, the positions of these queries in the whole row, consecutive.
        dropout_rate: rate of the attention weights; with 0 no random bits are made.
        reach: how many tokens away a token sees, or None.
        blocks: sizes of the blocks. Default: `default_blocks`.
        interpret: whether the kernel runs as plain JAX operations, on any platform.

    Returns:
        [B, T, N, H] in the dtype of the values.

    Source: Dao 2023, "FlashAttention-2".
    """
    num_queries, num_keys = q_BTNH.shape[1], k_BSNH.shape[1]
    if blocks is None:
        blocks = default_blocks(num_keys, k_BSNH.shape[3], k_BSNH.dtype)
    tiling = Tiling(
        blocks=blocks, num_keys=num_keys, dropout_rate=dropout_rate, reach=reach
    )
    # Powers of two: the larger is a multiple of the other.
    q_block = max(blocks.query, blocks.back_query)
    k_block = max(blocks.key, blocks.back_key)
    out_BTNH = _attention(
        tiling,
        interpret,
        words_B2,
        heads_N,
        queries_T[:1],
        filled(q_ids_BT, q_block, NO_SEQUENCE),
        filled(k_ids_BS, k_block, NO_SEQUENCE),
        filled(q_BTNH, q_block),
        filled(k_BSNH, k_block),
        filled(v_BSNH, k_block),
    )
    return out_BTNH[:, :num_queries]


def refusal(head_size: int, dtype: jnp.dtype) -> str | None:
    """Says why the kernel cannot take heads of that width and type; `None` if it can."""
    if head_size not in _WIDTHS:
        return f"heads are {head_size} wide; it takes widths of {list(_WIDTHS)}"
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {dtype.name}"
    return None


def default_blocks(num_keys: int, head_size: int, dtype: jnp.dtype) -> Blocks:
    """Block sizes chosen from what the compiler reports; no GPU has timed them yet.

    Among the sizes that fit the registers of an H100, these take the fewest instructions
    per score (benchmarks/LOG.md). They depend on the length of the whole row, so that a
    row is cut into the same blocks when a mesh splits it.
    """
    chosen = _BLOCKS[max(128, head_size * jnp.dtype(dtype).itemsize)]

    most = max(16, pl.next_power_of_2(num_keys))
    back_key = min(chosen.back_key, most)
    return dataclasses.replace(
        chosen,
        query=min(chosen.query, most),
        key=min(chosen.key, most),
        back_key=back_key,
        back_query=min(chosen.back_query, most),
        back_num_warps=max(4, back_key // 16),
    )


def _bounds(
    ids_BT: jax.Array,
    block: int,
    others_BS: jax.Array,
    other: int,
    *,
    reach: int | None = None,
    first: jax.Array | int = 0,
    other_first: jax.Array | int = 0,
) -> jax.Array:
    """Finds for each block the range of other blocks of which it sees a token.

    Sequences lie one after the other, so no block inside the range shares none.

    Args:
        ids_BT, others_BS: sequence ids.
        block, other: sizes of the blocks.
        reach: how many tokens away a token sees, or None.
        first, other_first: places of the first tokens in the row.

    Returns:
        int32 [B, T / block, 2]: the first block of the range and the one after the last.
        Both are 0 if there is none.
    """
    blocks = ids_BT.reshape(ids_BT.shape[0], -1, block, 1, 1)
    others = others_BS.reshape(others_BS.shape[0], 1, 1, -1, other)
    places, other_places = (
        jnp.arange(size, dtype=jnp.int32) + start
        for size, start in ((ids_BT.shape[1], first), (others_BS.shape[1], other_first))
    )
    visible = may_see(
        blocks,
        others,
        reach,
        places.reshape(1, -1, block, 1, 1),
        other_places.reshape(1, 1, 1, -1, other),
    )
    shared = jnp.any(visible, axis=(2, 4))
    numbers = jnp.arange(shared.shape[2], dtype=jnp.int32)[None, None]
    end = jnp.max(jnp.where(shared, numbers + 1, 0), axis=2)
    start = jnp.min(jnp.where(shared, numbers, shared.shape[2]), axis=2)
    return jnp.stack([jnp.minimum(start, end), end], axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(tiling: Tiling, interpret: bool, *args: jax.Array) -> jax.Array:
    """[B, T, N, H]. The arguments are those of the kernels, without `bounds`."""
    return _forward(tiling, interpret, *args)[0]


def _forward(
    tiling: Tiling, interpret: bool, *args: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    words, heads, first, q_ids, k_ids, q_BTNH, k_BSNH, v_BSNH = args
    blocks = tiling.blocks
    num_rows, num_queries, num_heads, _ = q_BTNH.shape
    queries, keys = _tokens(q_BTNH, blocks.query), _tokens(k_BSNH, None)
    out, log_sum = _call(
        tiling,
        forward_kernel,
        (
            words,
            heads,
            first,
            _bounds(
                *(q_ids, blocks.query, k_ids, blocks.key),
                reach=tiling.reach,
                first=first[0],
            ),
            q_ids,
            k_ids,
            q_BTNH,
            k_BSNH,
            v_BSNH,
        ),
        num_blocks=num_queries // blocks.query,
        in_specs=[
            _ids(q_ids, blocks.query),
            _ids(k_ids, None),
            queries,
            keys,
            keys,
        ],
        out_specs=[queries, _per_query(num_queries, blocks.query)],
        out_shape=[
            jax.ShapeDtypeStruct(q_BTNH.shape, v_BSNH.dtype),
            jax.ShapeDtypeStruct((num_rows, num_heads, num_queries), jnp.float32),
        ],
        num_products=2,
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
    )
    return out, (*args, out, log_sum)


def _backward(
    tiling: Tiling, interpret: bool, saved: tuple[jax.Array, ...], d_out_BTNH: jax.Array
) -> tuple[jax.Array | None, ...]:
    words, heads, first, q_ids, k_ids, q_BTNH, k_BSNH, v_BSNH, out, log_sum = saved
    blocks = tiling.blocks
    num_blocks = k_BSNH.shape[1] // blocks.back_key
    mean_BTN = jnp.sum(
        out.astype(jnp.float32) * d_out_BTNH.astype(jnp.float32), axis=-1
    )
    queries, keys = _tokens(q_BTNH, None), _tokens(k_BSNH, blocks.back_key)
    per_query = _per_query(q_BTNH.shape[1], None)
    # A single block of keys gives the whole gradient of the queries; each of several
    # blocks gives a part of it, and the parts are summed in float32.
    part_dtype = q_BTNH.dtype if num_blocks == 1 else jnp.float32
    parts_shape = (q_BTNH.shape[0], num_blocks, *q_BTNH.shape[1:])
    dq_parts, dk, dv = _call(
        tiling,
        backward_kernel,
        (
            words,
            heads,
            first,
            _bounds(
                *(k_ids, blocks.back_key, q_ids, blocks.back_query),
                reach=tiling.reach,
                other_first=first[0],
            ),
            q_ids,
            k_ids,
            q_BTNH,
            k_BSNH,
            v_BSNH,
            log_sum,
            mean_BTN.swapaxes(1, 2),
            d_out_BTNH,
        ),
        num_blocks=num_blocks,
        in_specs=[
            _ids(q_ids, None),
            _ids(k_ids, blocks.back_key),
            queries,
            keys,
            keys,
            per_query,
            per_query,
            queries,
        ],
        out_specs=[
            pl.BlockSpec(
                (None, None, q_BTNH.shape[1], None, q_BTNH.shape[3]),
                lambda i, n, b: (b, i, 0, n, 0),
            ),
            keys,
            keys,
        ],
        out_shape=[
            jax.ShapeDtypeStruct(parts_shape, part_dtype),
            jax.ShapeDtypeStruct(k_BSNH.shape, k_BSNH.dtype),
            jax.ShapeDtypeStruct(v_BSNH.shape, v_BSNH.dtype),
        ],
        num_products=5,
        num_warps=blocks.back_num_warps,
        num_stages=blocks.back_num_stages,
        interpret=interpret,
    )
    dq = dq_parts[:, 0] if num_blocks == 1 else jnp.sum(dq_parts, axis=1)
    return None, None, None, None, None, dq.astype(q_BTNH.dtype), dk, dv


_attention.defvjp(_forward, _backward)


# A thread block is (i, n, b): a block of tokens, a head and a row. The thread blocks of
# one head run one after the other, since they read the same keys and values.


def _tokens(x_BTNH: jax.Array, block: int | None) -> pl.BlockSpec:
    """The part [T, H] of one head: one block of tokens, or the whole row."""
    _, num_tokens, _, width = x_BTNH.shape
    if block is None:
        return pl.BlockSpec(
            (None, num_tokens, None, width), lambda i, n, b: (b, 0, n, 0)
        )
    return pl.BlockSpec((None, block, None, width), lambda i, n, b: (b, i, n, 0))


def _ids(ids_BT: jax.Array, block: int | None) -> pl.BlockSpec:
    if block is None:
        return pl.BlockSpec((None, ids_BT.shape[1]), lambda i, n, b: (b, 0))
    return pl.BlockSpec((None, block), lambda i, n, b: (b, i))


def _per_query(num_queries: int, block: int | None) -> pl.BlockSpec:
    """The part [T] of one head in an array [B, N, T]."""
    if block is None:
        return pl.BlockSpec((None, None, num_queries), lambda i, n, b: (b, n, 0))
    return pl.BlockSpec((None, None, block), lambda i, n, b: (b, n, i))


def _call(
    tiling: Tiling,
    kernel: Callable,
    args: tuple[jax.Array, ...],
    *,
    num_blocks: int,
    in_specs: list[pl.BlockSpec],
    out_specs: list[pl.BlockSpec],
    out_shape: list[jax.ShapeDtypeStruct],
    num_products: int,
    num_warps: int,
    num_stages: int,
    interpret: bool,
) -> Any:
    """Runs the kernel over blocks of tokens, heads and rows."""
    q_BTNH, k_BSNH = args[6:8]
    num_rows, num_queries, num_heads, width = q_BTNH.shape
    num_scores = num_rows * num_heads * num_queries * k_BSNH.shape[1]
    arrays: tuple[Any, ...] = (*args, *out_shape)
    return pl.pallas_call(
        functools.partial(kernel, tiling),
        out_shape=out_shape,
        grid=(num_blocks, num_heads, num_rows),
        in_specs=[
            pl.BlockSpec((None, 2), lambda i, n, b: (b, 0)),
            pl.BlockSpec((1,), lambda i, n, b: (n,)),
            pl.BlockSpec((1,), lambda i, n, b: (0,)),
            pl.BlockSpec((None, None, 2), lambda i, n, b: (b, i, 0)),
            *in_specs,
        ],
        out_specs=out_specs,
        compiler_params=plgpu.CompilerParams(
            num_warps=num_warps, num_stages=num_stages
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * num_products * num_scores * width,
            transcendentals=num_scores,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        interpret=interpret,
        name=f"triton_attention_{kernel.__name__}",
    )(*args)
