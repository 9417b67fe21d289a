"""One vector for each text: the encoder, and a pooling without parameters.

Shape suffixes: B examples, G texts of an example, R rows, T tokens, D hidden.
"""

from typing import Literal

import jax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import Params, encode_texts
from bert_jax.model.groups import folded
from bert_jax.model.heads import mean_of_tokens

Pooling = Literal["mean", "cls"]


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    pooling: Pooling,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> jax.Array:
    """The vector of each text, float32 [B, D], or [B, G, D] for groups of texts.

    Args:
        cfg: static; must fit `params`.
        params: tree that holds at least `embed` and `layers`.
        batch: tokens [B, T] or [B, G, T]. T must not exceed `cfg.max_positions`.
        pooling: static; "mean" of the last hidden states of all real tokens, [CLS] and
            [SEP] included, or the last hidden state of [CLS], "cls".
        compute: static; types and kernels.
        dropout: static; rates of dropout.
        key: random key of dropout, or one key per example [B]. `None` turns it off.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (not checked under jit, where ids are unknown).

    Source: Reimers & Gurevych 2019, section 3.
    """
    rows = batch
    if batch.input_ids.ndim == 3:
        rows, key = folded(batch, key)
    drops = Dropout.of(dropout, key, rows.input_ids.shape[0])
    hidden_RTD = encode_texts(cfg, params, rows, compute, drops)
    pooled_RD = pooled(hidden_RTD, rows.input_mask, pooling)
    return pooled_RD.reshape(*batch.input_ids.shape[:-1], -1)


def pooled(hidden_RTD: jax.Array, mask_RT: jax.Array, pooling: Pooling) -> jax.Array:
    """The vector of each row, float32 [R, D]; of a row without tokens, 0 for "mean"."""
    if pooling == "cls":
        return hidden_RTD[:, 0]
    return mean_of_tokens(hidden_RTD, mask_RT)
