"""Splash attention, JAX's own Pallas kernel for TPU, for packed rows.

The kernel takes keys block by block with a running maximum (Dao et al. 2022), so rows
may have any length. It cannot drop attention weights.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)

from bert_jax.model.attention_parts import LANES, NO_SEQUENCE, filled

_MOST_BLOCK = 512


def splash_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    q_ids_BT: jax.Array,
    k_ids_BS: jax.Array,
    *,
    reach: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attend` on one device, which may hold only some rows, heads and queries.

    Args:
        q_BTNH, k_BSNH, v_BSNH: float32 or bfloat16. All keys of these rows must be here.
        q_ids_BT, k_ids_BS: int32 sequence ids; a query sees the keys with its own id.
        reach: how many tokens away a token sees, or None. With one, all queries of these
            rows must be here too.
        interpret: whether the kernel runs as plain JAX operations, on any platform.

    Returns:
        [B, T, N, H] in the dtype of the values.

    Raises:
        ValueError: there is a reach, and only a part of the queries.
    """
    if reach is not None and q_BTNH.shape[1] != k_BSNH.shape[1]:
        raise ValueError(
            'ComputeConfig.attention="splash" has no windows in rows that a mesh splits '
            'by length; use "auto" or "xla", or MeshConfig.sequence=1.'
        )
    num_queries, num_heads = q_BTNH.shape[1:3]
    q_block, k_block = (_block(x.shape[1]) for x in (q_BTNH, k_BSNH))
    # The kernel does not scale the scores, so the queries are scaled here, in float32:
    # then only one rounding is added.
    q_BTNH = (q_BTNH.astype(jnp.float32) / math.sqrt(q_BTNH.shape[-1])).astype(
        q_BTNH.dtype
    )
    q_BNTH = filled(q_BTNH, q_block).swapaxes(1, 2)
    k_BNSH, v_BNSH = (filled(x, k_block).swapaxes(1, 2) for x in (k_BSNH, v_BSNH))
    ids = splash.SegmentIds(
        filled(q_ids_BT, q_block, NO_SEQUENCE), filled(k_ids_BS, k_block, NO_SEQUENCE)
    )
    shape = (q_BNTH.shape[2], k_BNSH.shape[2])
    mask: Any = masks.FullMask(shape)
    if reach is not None:
        mask = masks.LocalMask(shape, window_size=(reach, reach), offset=0)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * num_heads),
        block_sizes=splash.BlockSizes(
            block_q=q_block,
            block_kv=k_block,
            block_q_dkv=q_block,
            block_kv_dkv=k_block,
            block_q_dq=q_block,
            block_kv_dq=k_block,
        ),
        interpret=interpret,
    )
    out_BNTH = jax.vmap(kernel)(q_BNTH, k_BNSH, v_BNSH, ids)
    return out_BNTH.swapaxes(1, 2)[:, :num_queries]


def _block(size: int) -> int:
    """Block size in whole lanes: at most 512, chosen so that little padding is added."""
    blocks = -(-size // _MOST_BLOCK)
    return -(-size // (blocks * LANES)) * LANES
