"""Our Pallas attention kernel for TPU: the scores never leave the chip.

The backward pass computes the weights and the dropout bits again, so nothing as large as
the scores is stored. All kernels use the same dropout bits: they depend on the row's
key, the head, the query and the key only.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width,
D = N * H.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bert_jax.model.attention_fused_kernels import (
    Tiling,
    backward_kernel,
    forward_kernel,
)
from bert_jax.model.attention_parts import LANES, NO_SEQUENCE, filled

# Scores of one head that a step holds at once: 512 KiB in float32.
_STEP_SCORES = 1 << 17
# Largest tile of keys, in bytes. With twice as many, the kernel's buffers would exceed
# the 16 MiB that a TPU v4 has for a kernel.
_MOST_KEY_BYTES = 1 << 19


def fused_attention(
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
        interpret: whether the kernel runs as plain JAX operations, on any platform.

    Returns:
        [B, T, N, H] in the dtype of the values.
    """
    num_queries, num_heads, head_size = q_BTNH.shape[1:]
    tile_heads = max(1, min(LANES // head_size, num_heads))
    spare_heads = -num_heads % tile_heads
    query_block = _query_block(num_queries, k_BSNH.shape[1])
    tiling = Tiling(
        head_size=head_size,
        tile_heads=tile_heads,
        tiles=_tiles(
            (num_heads + spare_heads) // tile_heads,
            tile_heads * query_block * _padded(k_BSNH.shape[1]),
        ),
        query_block=query_block,
        num_keys=k_BSNH.shape[1],
        dropout_rate=dropout_rate,
        reach=reach,
    )

    def flat(x: jax.Array, block: int) -> jax.Array:
        """[B, T, N, H] -> [B, T, D], filled up to whole blocks and tiles."""
        pad = -x.shape[1] % block
        x = jnp.pad(x, ((0, 0), (0, pad), (0, spare_heads), (0, 0)))
        return x.reshape(*x.shape[:2], -1)

    out_BTD = _attention(
        tiling,
        interpret,
        words_B2.reshape(-1),
        jnp.pad(heads_N, (0, spare_heads)),
        queries_T[:1],
        flat(q_BTNH, query_block),
        flat(k_BSNH, LANES),
        flat(v_BSNH, LANES),
        filled(q_ids_BT, query_block, NO_SEQUENCE)[:, None],
        filled(k_ids_BS, LANES, NO_SEQUENCE)[:, None],
    )
    out_BTNH = out_BTD.reshape(*out_BTD.shape[:2], -1, head_size)
    return out_BTNH[:, :num_queries, :num_heads]


def refusal(num_keys: int, head_size: int, dtype: jnp.dtype) -> str | None:
    """Says why the kernel cannot take these rows and heads; `None` if it can."""
    if LANES % head_size and head_size % LANES:
        return (
            f"heads {head_size} wide do not fill {LANES} lanes; it takes widths that "
            f"divide {LANES} or are a multiple of {LANES}"
        )
    most = _MOST_KEY_BYTES // (max(LANES, head_size) * dtype.itemsize)
    if num_keys > most:
        return (
            f"rows of {num_keys} tokens are too long; it takes {most} in {dtype.name} "
            f"and heads {head_size} wide"
        )
    return None


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


def _query_block(num_queries: int, num_keys: int) -> int:
    """Queries per step, in whole lanes: as many as a step can hold the scores of."""
    most = max(1, _STEP_SCORES // _padded(num_keys) // LANES)
    blocks = -(-_padded(num_queries) // (most * LANES))
    return _padded(-(-num_queries // blocks))


def _tiles(num_tiles: int, tile_scores: int) -> int:
    """Tiles per step: several where rows are short, since tiny steps are slow."""
    most = max(1, 2 * _STEP_SCORES // tile_scores)
    return max(n for n in range(1, num_tiles + 1) if num_tiles % n == 0 and n <= most)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(tiling: Tiling, interpret: bool, *args: jax.Array) -> jax.Array:
    """[B, T, D]; the arguments are those of `forward_kernel`, in its order."""
    q_BTD, k_BSD = args[3:5]
    queries, keys, q_ids, k_ids = _specs(tiling, k_BSD.shape[1])
    return _call(
        tiling,
        forward_kernel,
        args,
        in_specs=[queries, keys, keys, q_ids, k_ids],
        out_specs=queries,
        out_shape=jax.ShapeDtypeStruct(q_BTD.shape, q_BTD.dtype),
        scratch_shapes=[],
        num_products=2,
        interpret=interpret,
    )


def _forward(
    tiling: Tiling, interpret: bool, *args: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _attention(tiling, interpret, *args), args


def _backward(
    tiling: Tiling, interpret: bool, args: tuple[jax.Array, ...], d_out_BTD: jax.Array
) -> tuple[jax.Array | None, ...]:
    q_BTD, k_BSD = args[3:5]
    queries, keys, q_ids, k_ids = _specs(tiling, k_BSD.shape[1])
    of_queries, of_keys = (
        jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q_BTD, k_BSD)
    )
    sums = pltpu.VMEM((k_BSD.shape[1], tiling.tiles * tiling.tile_width), jnp.float32)
    dq, dk, dv = _call(
        tiling,
        backward_kernel,
        (*args, d_out_BTD),
        in_specs=[queries, keys, keys, q_ids, k_ids, queries],
        out_specs=[queries, keys, keys],
        out_shape=[of_queries, of_keys, of_keys],
        scratch_shapes=[sums, sums],
        num_products=5,
        interpret=interpret,
    )
    return None, None, None, dq, dk, dv, None, None


_attention.defvjp(_forward, _backward)


def _specs(tiling: Tiling, num_keys: int) -> tuple[pl.BlockSpec, ...]:
    """The blocks of the queries, the keys, and the sequence ids of both."""
    width = tiling.tiles * tiling.tile_width
    return (
        pl.BlockSpec((1, tiling.query_block, width), lambda b, g, t, *_: (b, t, g)),
        pl.BlockSpec((1, num_keys, width), lambda b, g, t, *_: (b, 0, g)),
        pl.BlockSpec((1, 1, tiling.query_block), lambda b, g, t, *_: (b, 0, t)),
        pl.BlockSpec((1, 1, num_keys), lambda b, g, t, *_: (b, 0, 0)),
    )


def _call(
    tiling: Tiling,
    kernel: Callable,
    args: tuple[jax.Array, ...],
    *,
    out_shape: Any,
    num_products: int,
    interpret: bool,
    **specs: Any,
) -> Any:
    """Runs the kernel over rows, groups of heads, and blocks of queries."""
    num_rows, num_queries, width = args[3].shape
    num_scores = num_rows * num_queries * args[4].shape[1]
    arrays = (*args, *jax.tree.leaves(out_shape))
    return pl.pallas_call(
        functools.partial(kernel, tiling),
        out_shape=out_shape,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(
                num_rows,
                width // (tiling.tiles * tiling.tile_width),
                num_queries // tiling.query_block,
            ),
            **specs,
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * num_products * num_scores * width,
            transcendentals=num_scores * width // tiling.head_size,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        interpret=interpret,
        name=f"fused_attention_{kernel.__name__}",
    )(*args)
