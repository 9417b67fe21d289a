"""What pretraining and fine-tuning minimise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bert_jax.batch import ClassifyBatch, MaskVocabulary, PretrainBatch
from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    MaskingConfig,
    ModelConfig,
)
from bert_jax.model import classification, pretraining
from bert_jax.model.masking import MaskedBatch, mask_tokens
from bert_jax.model.pretraining import PretrainOutputs, PretrainSums
from bert_jax.model.random_bits import row_keys
from bert_jax.train.flops import classify_work, pretrain_work
from bert_jax.train.losses import (
    Objective,
    classify_loss,
    pretrain_loss,
    regress_loss,
)


class _PretrainRows(NamedTuple):
    batch: PretrainBatch
    masked: MaskedBatch
    keys: jax.Array  # [B], of dropout


class _ClassifyRows(NamedTuple):
    batch: ClassifyBatch
    keys: jax.Array  # [B], of dropout


def pretrain_objective(
    model: ModelConfig,
    compute: ComputeConfig,
    dropout: DropoutConfig,
    masking: MaskingConfig,
    vocabulary: MaskVocabulary,
) -> Objective:
    """MLM + NSP on freshly masked rows, dropout on (Devlin et al. 2018, appendix A.2)."""
    forward: Callable[..., PretrainOutputs | PretrainSums] = pretraining.apply
    if compute.mlm_logits == "chunked":
        forward = pretraining.apply_with_loss

    def prepare(batch: PretrainBatch, key: jax.Array) -> _PretrainRows:
        mask_key, dropout_key = jax.random.split(key)
        masked = mask_tokens(masking, batch, vocabulary, mask_key)
        keys = row_keys(dropout_key, batch.input_ids.shape[0])
        assert keys is not None
        return _PretrainRows(batch, masked, keys)

    def weights(rows: _PretrainRows) -> dict[str, jax.Array]:
        return {
            "mlm_loss": rows.masked.weights.sum(),
            "nsp_loss": rows.batch.nsp_weights.sum(),
        }

    def metrics(params: Any, rows: _PretrainRows) -> dict[str, Any]:
        outputs = forward(
            model,
            params,
            rows.batch,
            rows.masked,
            compute=compute,
            dropout=dropout,
            key=rows.keys,
        )
        work = pretrain_work(rows.batch, rows.masked.weights)
        return {**pretrain_loss(outputs, rows.batch, rows.masked)[1], "work": work}

    return Objective(prepare, weights, metrics)


def classify_objective(
    model: ModelConfig, compute: ComputeConfig, dropout: DropoutConfig
) -> Objective:
    """Cross-entropy of the labels, dropout on."""
    return _text_objective(model, compute, dropout, classify_loss)


def regress_objective(
    model: ModelConfig, compute: ComputeConfig, dropout: DropoutConfig
) -> Objective:
    """Squared error of the scores, dropout on."""
    return _text_objective(model, compute, dropout, regress_loss)


def _text_objective(
    model: ModelConfig,
    compute: ComputeConfig,
    dropout: DropoutConfig,
    loss: Callable[..., Any],
) -> Objective:
    def prepare(batch: ClassifyBatch, key: jax.Array) -> _ClassifyRows:
        keys = row_keys(key, batch.input_ids.shape[0])
        assert keys is not None
        return _ClassifyRows(batch, keys)

    def weights(rows: _ClassifyRows) -> dict[str, jax.Array]:
        return {"loss": rows.batch.weights.sum()}

    def metrics(params: Any, rows: _ClassifyRows) -> dict[str, Any]:
        logits = classification.apply(
            model, params, rows.batch, compute=compute, dropout=dropout, key=rows.keys
        )
        work = classify_work(rows.batch)
        return {**loss(logits, rows.batch)[1], "work": work}

    return Objective(prepare, weights, metrics)
