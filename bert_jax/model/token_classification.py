"""The encoder with a classifier over every token, as two pure functions.

Shape suffixes: B rows, T tokens, D hidden, C classes.
"""

import jax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import Params, encode_texts, init_encoder
from bert_jax.model.heads import (
    init_linear_head,
    init_pooler,
    linear_head,
    pools_tokens,
    token_vectors,
)


def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder and token classifier."""
    encoder_key, head_key = jax.random.split(key)
    params = init_encoder(cfg, encoder_key)
    if pools_tokens(cfg):
        params["pooler"] = init_pooler(cfg, jax.random.fold_in(key, 1))
    return {**params, "tokens": init_linear_head(cfg, num_labels, head_key)}


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> jax.Array:
    """Class logits of every token, float32 [B, T, C]. Logits of padding mean nothing.

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: T must not exceed `cfg.max_positions`; labels and weights are not read.
        compute: static; types and kernels.
        dropout: static; rates of dropout.
        key: random key of dropout, or one key per row [B]. `None` turns dropout off.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (not checked under jit, where ids are unknown).

    Source: Devlin et al. 2018, section 5.3 and figure 4 (d).
    """
    drops = Dropout.of(dropout, key, batch.input_ids.shape[0])
    encoder_drops, head_drops = drops.split(2)
    hidden_BTD = encode_texts(cfg, params, batch, compute, encoder_drops)
    read_BTD = token_vectors(cfg, compute, params, hidden_BTD)
    return linear_head(cfg, compute, params["tokens"])(head_drops.hidden(read_BTD))
