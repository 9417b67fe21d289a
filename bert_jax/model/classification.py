"""The encoder with a classifier over [CLS], as two pure functions.

Shape suffixes: B rows, T tokens, D hidden, C classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.model.encoder import Params, encode, init_encoder
from bert_jax.model.heads import LinearHead, Pooler
from bert_jax.model.layers import dropout, graph_of, pure_params, split_key

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
        key: of dropout; `None` turns it off.
        dropout_rate: in place of the rates in `cfg`, everywhere.

    Raises:
        ValueError: the sequences are longer than the position table.

    Source: Devlin et al. 2018, sections 3.2 and 4.1.
    """
    if dropout_rate is not None:
        cfg = dataclasses.replace(
            cfg, dropout_rate=dropout_rate, attention_dropout_rate=dropout_rate
        )
    encoder_key, head_key = split_key(key, 2)
    length = batch.input_ids.shape[1]
    hidden_BTD = encode(
        cfg,
        params,
        input_ids=batch.input_ids,
        segment_ids=batch.segment_ids,
        sequence_ids=batch.input_mask,
        position_ids=jnp.broadcast_to(jnp.arange(length), batch.input_ids.shape),
        key=encoder_key,
    )
    pooler = nnx.merge(graph_of(Pooler, cfg), {"dense": params["pooler"]})
    num_labels = params["classifier"]["bias"].shape[0]
    head = nnx.merge(
        graph_of(LinearHead, cfg, num_labels), {"dense": params["classifier"]}
    )
    pooled_BD = dropout(pooler(hidden_BTD[:, 0]), cfg.dropout_rate, head_key)
    return head(pooled_BD)
