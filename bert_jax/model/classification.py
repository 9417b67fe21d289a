"""The encoder with a classifier over each text, as two pure functions.

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
    text_vectors,
)


def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder, pooler and classifier."""
    encoder_key, pooler_key, classifier_key = jax.random.split(key, 3)
    return {
        **init_encoder(cfg, encoder_key),
        "pooler": init_pooler(cfg, pooler_key),
        "classifier": init_linear_head(cfg, num_labels, classifier_key),
    }


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> jax.Array:
    """Class logits of each row, float32 [B, C].

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: T must not exceed `cfg.max_positions`.
        compute: static; types and kernels.
        dropout: static; rates of dropout.
        key: random key of dropout, or one key per row [B]. `None` turns dropout off.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (not checked under jit, where ids are unknown).

    Source: Devlin et al. 2018, sections 3.2 and 4.1.
    """
    drops = Dropout.of(dropout, key, batch.input_ids.shape[0])
    encoder_drops, head_drops = drops.split(2)
    hidden_BTD = encode_texts(cfg, params, batch, compute, encoder_drops)
    pooled_BD = text_vectors(
        *(cfg, compute, params["pooler"]), hidden_BTD, batch.input_mask
    )
    return linear_head(cfg, compute, params["classifier"])(head_drops.hidden(pooled_BD))
