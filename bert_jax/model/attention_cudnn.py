"""Attention by cuDNN, NVIDIA's own library, for packed rows on NVIDIA GPUs.

Its flash attention (Dao et al. 2022) is reached through `jax.nn.dot_product_attention`. It
keeps no scores, but it reads from memory which tokens see each other, one entry for each
pair of tokens of a row. It cannot drop attention weights.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width.
"""

import jax
import jax.numpy as jnp

from bert_jax.model.attention_parts import NO_SEQUENCE, filled
from bert_jax.model.rows import may_see

_WIDEST = 128  # 256 from Hopper on
# A gradient with pairs that do not see each other needs rows of even length.
_BLOCK = 2


def refusal(head_size: int, dtype: jnp.dtype) -> str | None:
    """Says why cuDNN cannot take heads of that width and type; `None` if it can."""
    if head_size % 8 or head_size > _WIDEST:
        return (
            f"heads are {head_size} wide; it takes multiples of 8 of at most {_WIDEST}"
        )
    if dtype != jnp.bfloat16:
        return f"it takes bfloat16, not {dtype.name}"
    return None


def cudnn_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    q_ids_BT: jax.Array,
    k_ids_BS: jax.Array,
    query_numbers_T: jax.Array,
    *,
    reach: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attend` on one device, which may hold only some rows, heads and queries.

    Args:
        q_BTNH, k_BSNH, v_BSNH: bfloat16. All keys of these rows must be here.
        q_ids_BT, k_ids_BS: int32 sequence ids; a query sees the keys with its own id.
        query_numbers_T: int32 places of these queries in their rows.
        reach: how many tokens away a token sees, or None.
        interpret: whether JAX's plain operations take cuDNN's place, on any platform.

    Returns:
        [B, T, N, H] in the dtype of the values.
    """
    num_queries = q_BTNH.shape[1]
    q_BTNH, k_BSNH, v_BSNH = (filled(x, _BLOCK) for x in (q_BTNH, k_BSNH, v_BSNH))
    q_ids_BT, k_ids_BS = (filled(x, _BLOCK, NO_SEQUENCE) for x in (q_ids_BT, k_ids_BS))
    numbers_1T = filled(query_numbers_T[None], _BLOCK, num_queries)
    seen_BTS = may_see(
        q_ids_BT[:, :, None],
        k_ids_BS[:, None, :],
        reach,
        numbers_1T[:, :, None],
        jnp.arange(k_BSNH.shape[1], dtype=jnp.int32)[None, None],
    )
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSNH,
        v_BSNH,
        mask=seen_BTS[:, None],
        implementation="xla" if interpret else "cudnn",
    )
    return out_BTNH[:, :num_queries]
