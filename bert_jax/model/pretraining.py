"""The encoder with its pretraining heads, as two pure functions.

Shape suffixes: B rows, T tokens, P pairs in a row, M masked slots, D hidden, V padded
vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.batch import PretrainBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.limits import NUM_NSP_CLASSES
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import Params, check_known, encode, init_encoder
from bert_jax.model.heads import (
    MlmHead,
    init_linear,
    init_pooler,
    linear,
    pool,
)
from bert_jax.model.layers import Keys, graph_of, pure_params
from bert_jax.model.masking import MaskedBatch
from bert_jax.model.rows import Rows


class PretrainOutputs(NamedTuple):
    hidden: jax.Array  # float32 [B, T, D]
    pooled: jax.Array | None  # float32 [B, P, D], if there is a next-sentence head
    mlm_logits: jax.Array  # float32 [B, M, V]
    nsp_logits: jax.Array | None  # float32 [B, P, 2], if there is such a head


class PretrainSums(NamedTuple):
    """What the loss needs instead of MLM logits. Both sums go over all slots."""

    mlm_loss: jax.Array  # float32 scalar, weight * cross-entropy in nats
    mlm_hits: jax.Array  # float32 scalar, weight * accuracy
    nsp_logits: jax.Array | None  # float32 [B, P, 2], if there is such a head


def init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    """Draws fresh float32 parameters; trace it under jit to place them on a mesh."""
    encoder_key, pooler_key, mlm_key, nsp_key = jax.random.split(key, 4)
    params = init_encoder(cfg, encoder_key)
    if cfg.next_sentence:
        params["pooler"] = init_pooler(cfg, pooler_key)
        params["nsp"] = init_linear(cfg, NUM_NSP_CLASSES, nsp_key)
    mlm = MlmHead(cfg, ComputeConfig(), keys=Keys(mlm_key))
    if own := pure_params(mlm):
        params["mlm"] = own
    return params


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: PretrainBatch,
    masked: MaskedBatch,
    *,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> PretrainOutputs:
    """Runs the encoder and both heads. The MLM head gets the masked positions only.

    Args:
        cfg: static; must be the config that produced `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: T must not exceed `cfg.max_positions`.
        masked: the same rows after `mask_tokens`.
        compute: static; types and kernels.
        dropout: static; rates of dropout.
        key: random key of dropout, or one key per row [B]. `None` turns dropout off.

    Returns:
        Hidden states, pooled vectors and the logits of both heads, float32.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (not checked under jit, where ids are unknown).

    Source: Devlin et al. 2018, sections 3.1 and A.2.
    """
    hidden_BTD, pooled_BPD, slots_BMD = _encoded(
        cfg, params, batch, masked, compute, dropout, key
    )
    mlm = _mlm_head(cfg, compute, params)
    return PretrainOutputs(
        hidden=hidden_BTD,
        pooled=pooled_BPD,
        mlm_logits=mlm(slots_BMD, params["embed"]["token"]["embedding"]),
        nsp_logits=_nsp_logits(cfg, compute, params, pooled_BPD),
    )


def apply_with_loss(
    cfg: ModelConfig,
    params: Params,
    batch: PretrainBatch,
    masked: MaskedBatch,
    *,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> PretrainSums:
    """Like `apply`, but computes and uses the MLM logits chunk by chunk.

    `train.losses.pretrain_loss` takes the results of both functions and gives the same
    loss and gradients.
    """
    _, pooled_BPD, slots_BMD = _encoded(
        cfg, params, batch, masked, compute, dropout, key
    )
    mlm = _mlm_head(cfg, compute, params)
    loss, hits = mlm.loss_sums(
        slots_BMD,
        params["embed"]["token"]["embedding"],
        jnp.asarray(masked.labels),
        jnp.asarray(masked.weights),
    )
    return PretrainSums(loss, hits, _nsp_logits(cfg, compute, params, pooled_BPD))


def _encoded(
    cfg: ModelConfig,
    params: Params,
    batch: PretrainBatch,
    masked: MaskedBatch,
    compute: ComputeConfig,
    dropout: DropoutConfig,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Hidden states [B, T, D], pooled vectors [B, P, D] if any, slots [B, M, D]."""
    length = batch.input_ids.shape[1]
    check_known("cls_positions", batch.cls_positions, length, "the row's tokens")
    check_known("positions", masked.positions, length, "the row's tokens")
    hidden_BTD = encode(
        cfg,
        params,
        input_ids=masked.input_ids,
        segment_ids=batch.segment_ids,
        rows=Rows(batch.sequence_ids, batch.position_ids),
        compute=compute,
        dropout=Dropout.of(dropout, key, batch.input_ids.shape[0]),
    )
    pooled_BPD = None
    if cfg.next_sentence:
        cls_BPD = _gather(hidden_BTD, batch.cls_positions)
        pooled_BPD = pool(cfg, compute, params["pooler"], cls_BPD)
    return hidden_BTD, pooled_BPD, _gather(hidden_BTD, masked.positions)


def _mlm_head(cfg: ModelConfig, compute: ComputeConfig, params: Params) -> MlmHead:
    # A bare product with the token table has no parameters of its own.
    return nnx.merge(graph_of(MlmHead, cfg, compute), params.get("mlm", {}))


def _nsp_logits(
    cfg: ModelConfig, compute: ComputeConfig, params: Params, x: jax.Array | None
) -> jax.Array | None:
    return None if x is None else linear(cfg, compute, params["nsp"], x)


def _gather(x_BTD: jax.Array, positions_BM: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BTD, positions_BM[:, :, None], axis=1)
