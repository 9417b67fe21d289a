"""Bidirectional self-attention that never crosses from one sequence to another.

Shape suffixes: B rows, T tokens (S when they are attended to), D hidden, N heads,
H head width.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.model.layers import Dense, dropout
from bert_jax.model.logical import constrain

# Far below any score, and exp of it is exactly 0 after the maximum is taken off.
MASKED_SCORE = -1e9


def attend(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    sequence_ids_BT: jax.Array,
    *,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention within each sequence of a row.

    Args:
        q_BTNH, k_BSNH, v_BSNH: queries, keys and values in the compute dtype.
        sequence_ids_BT: int32; a token sees the tokens that carry its own id.
        dropout_rate: of the attention weights.
        key: `None` turns dropout off.

    Returns:
        [B, T, N, H] in the dtype of the values; softmax is float32 inside.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    same_BTS = sequence_ids_BT[:, :, None] == sequence_ids_BT[:, None, :]
    scores_BNTS = jnp.einsum(
        "BTNH,BSNH->BNTS", q_BTNH, k_BSNH, preferred_element_type=jnp.float32
    )
    scores_BNTS = jnp.where(
        same_BTS[:, None], scores_BNTS / math.sqrt(q_BTNH.shape[-1]), MASKED_SCORE
    )
    probs_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(v_BSNH.dtype)
    probs_BNTS = dropout(probs_BNTS, dropout_rate, key)
    return jnp.einsum("BNTS,BSNH->BTNH", probs_BNTS, v_BSNH)


class SelfAttention(nnx.Module):
    """Multi-head self-attention and its output projection; no residual, no norm."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        heads = (cfg.num_heads, cfg.head_size)
        width = (cfg.hidden_size,)
        self.query = Dense(cfg, width, heads, rngs=rngs)
        self.key = Dense(cfg, width, heads, rngs=rngs)
        self.value = Dense(cfg, width, heads, rngs=rngs)
        self.out = Dense(cfg, heads, width, rngs=rngs)
        self.dropout_rate = cfg.attention_dropout_rate

    def __call__(
        self, x_BTD: jax.Array, sequence_ids_BT: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        q_BTNH, k_BSNH, v_BSNH = (
            constrain(project(x_BTD), "batch", "length", "heads", "head_dim")
            for project in (self.query, self.key, self.value)
        )
        y_BTNH = attend(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            sequence_ids_BT,
            dropout_rate=self.dropout_rate,
            key=key,
        )
        return self.out(y_BTNH)
