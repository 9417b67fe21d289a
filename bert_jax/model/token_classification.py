"""The encoder with a classifier over every token, as two pure functions.

Shape suffixes: B rows, T tokens, D hidden, C classes.
"""

import jax
from flax import nnx

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.model.encoder import Params, encode_texts, init_encoder, with_dropout
from bert_jax.model.heads import LinearHead, linear_head
from bert_jax.model.layers import dropout, pure_params
from bert_jax.model.random_bits import row_keys, split_rows


def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder and token classifier, no pooler."""
    encoder_key, head_key = jax.random.split(key)
    head = LinearHead(cfg, num_labels, rngs=nnx.Rngs(head_key))
    return {**init_encoder(cfg, encoder_key), "tokens": pure_params(head)["dense"]}


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    key: jax.Array | None = None,
    dropout_rate: float | None = None,
) -> jax.Array:
    """Class logits of every token, float32 [B, T, C]; those of padding mean nothing.

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: T must not exceed `cfg.max_positions`; labels and weights are not read.
        key: of dropout, one or one a row [B]; `None` turns it off.
        dropout_rate: in place of the rates in `cfg`, everywhere.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (where ids are known; under jit they are not).

    Source: Devlin et al. 2018, section 5.3 and figure 4 (d).
    """
    cfg = with_dropout(cfg, dropout_rate)
    keys_B = row_keys(key, batch.input_ids.shape[0])
    encoder_keys, head_keys = split_rows(keys_B, 2)
    hidden_BTD = encode_texts(cfg, params, batch, encoder_keys)
    hidden_BTD = dropout(hidden_BTD, cfg.dropout_rate, head_keys)
    return linear_head(cfg, params["tokens"])(hidden_BTD)
