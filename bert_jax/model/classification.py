"""The encoder with a classifier over [CLS], as two pure functions.

Shape suffixes: B rows, T tokens, D hidden, C classes.
"""

import jax
from flax import nnx

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.model.encoder import Params, encode_texts, init_encoder, with_dropout
from bert_jax.model.heads import LinearHead, Pooler, linear_head
from bert_jax.model.layers import dropout, graph_of, pure_params
from bert_jax.model.random_bits import row_keys, split_rows

# Parts that pretraining hands over; the classifier itself always starts fresh.
ENCODER_PARTS = ("embed", "layers", "pooler")


def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder, pooler and classifier."""
    encoder_key, pooler_key, classifier_key = jax.random.split(key, 3)
    head = LinearHead(cfg, num_labels, rngs=nnx.Rngs(classifier_key))
    return {
        **init_encoder(cfg, encoder_key),
        "pooler": pure_params(Pooler(cfg, rngs=nnx.Rngs(pooler_key)))["dense"],
        "classifier": pure_params(head)["dense"],
    }


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    key: jax.Array | None = None,
    dropout_rate: float | None = None,
) -> jax.Array:
    """Class logits of each row, float32 [B, C].

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: T must not exceed `cfg.max_positions`.
        key: of dropout, one or one a row [B]; `None` turns it off.
        dropout_rate: in place of the rates in `cfg`, everywhere.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (where ids are known; under jit they are not).

    Source: Devlin et al. 2018, sections 3.2 and 4.1.
    """
    cfg = with_dropout(cfg, dropout_rate)
    keys_B = row_keys(key, batch.input_ids.shape[0])
    encoder_keys, head_keys = split_rows(keys_B, 2)
    hidden_BTD = encode_texts(cfg, params, batch, encoder_keys)
    pooler = nnx.merge(graph_of(Pooler, cfg), {"dense": params["pooler"]})
    pooled_BD = dropout(pooler(hidden_BTD[:, 0]), cfg.dropout_rate, head_keys)
    return linear_head(cfg, params["classifier"])(pooled_BD)
