"""Attention as plain array operations, which XLA compiles for every device.

Shape suffixes: B rows, T tokens (S when they are attended to), N heads, H head width.
"""

import math

import jax
import jax.numpy as jnp

from bert_jax.model.dropout import drop_units
from bert_jax.model.rows import MASKED_SCORE, may_see


def xla_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    sequence_ids_BT: jax.Array,
    keys_B: jax.Array | None,
    dropout_rate: float,
) -> jax.Array:
    """`attention.attend` with all scores of a row in memory. Returns [B, T, N, H].

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    visible_BTS = may_see(sequence_ids_BT[:, :, None], sequence_ids_BT[:, None, :])
    scores_BNTS = jnp.einsum(
        "BTNH,BSNH->BNTS", q_BTNH, k_BSNH, preferred_element_type=jnp.float32
    )
    scores_BNTS = jnp.where(
        visible_BTS[:, None], scores_BNTS / math.sqrt(q_BTNH.shape[-1]), MASKED_SCORE
    )
    probs_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(v_BSNH.dtype)
    probs_BNTS = drop_units(probs_BNTS, dropout_rate, keys_B)
    return jnp.einsum("BNTS,BSNH->BTNH", probs_BNTS, v_BSNH)
