"""Bidirectional self-attention that never crosses from one sequence to another.

Shape suffixes: B rows, T tokens (S when they are attended to), D hidden, N heads,
H head width.
"""

import jax
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.model.attention_xla import xla_attention
from bert_jax.model.layers import Dense
from bert_jax.model.logical import constrain


def attend(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    sequence_ids_BT: jax.Array,
    *,
    dropout_rate: float = 0.0,
    keys_B: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention within each sequence of a row.

    Args:
        q_BTNH, k_BSNH, v_BSNH: queries, keys and values in the compute dtype.
        sequence_ids_BT: int32; a token sees the tokens that carry its own id.
        dropout_rate: of the attention weights.
        keys_B: typed keys, one a row; `None` turns dropout off.

    Returns:
        [B, T, N, H] in the dtype of the values; softmax is float32 inside.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    return xla_attention(q_BTNH, k_BSNH, v_BSNH, sequence_ids_BT, keys_B, dropout_rate)


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
        self, x_BTD: jax.Array, sequence_ids_BT: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        q_BTNH, k_BSNH, v_BSNH = (
            constrain(project(x_BTD), "batch", length, "heads", "head_dim")
            for project, length in (
                (self.query, "length"),
                (self.key, "kv_length"),
                (self.value, "kv_length"),
            )
        )
        y_BTNH = attend(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            sequence_ids_BT,
            dropout_rate=self.dropout_rate,
            keys_B=keys_B,
        )
        return self.out(y_BTNH)
