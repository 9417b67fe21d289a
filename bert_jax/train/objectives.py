"""What pretraining and fine-tuning minimise."""

import dataclasses
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
from bert_jax.model import pretraining
from bert_jax.model.masking import MaskedBatch, mask_tokens
from bert_jax.model.masking_rate import rate_at
from bert_jax.model.pretraining import PretrainOutputs, PretrainSums
from bert_jax.model.random_bits import row_keys
from bert_jax.train.flops import pretrain_work, text_work
from bert_jax.train.losses import Mean, masked_share, pretrain_loss
from bert_jax.train.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss, which is a sum of means over all rows of a batch.

    It is computed in three steps, so that a batch can be processed in parts.
    """

    prepare: Callable[[Any, jax.Array, jax.Array | int], Any]
    """prepare(batch, key, step) returns all that the other two functions need, as arrays
    whose first axis is the rows. It draws the masks and one dropout key per row. `step`
    is the number of the update, from 0."""
    weights: Callable[[Any], dict[str, jax.Array]]
    """weights(rows) returns the weight of each mean in the loss. It needs no model."""
    metrics: Callable[[Any, Any], dict[str, Mean]]
    """metrics(params, rows) returns undivided means; those that `weights` names are among
    them."""


class _PretrainRows(NamedTuple):
    batch: PretrainBatch
    masked: MaskedBatch
    keys: jax.Array  # [B], random keys of dropout


class _TextRows(NamedTuple):
    batch: ClassifyBatch
    keys: jax.Array  # [B], random keys of dropout


def pretrain_objective(
    model: ModelConfig,
    compute: ComputeConfig,
    dropout: DropoutConfig,
    masking: MaskingConfig,
    vocabulary: MaskVocabulary,
    *,
    num_steps: int = 1,
    has_labels: bool = True,
) -> Objective:
    """The MLM and NSP losses on freshly masked rows, with dropout.

    Args:
        model: the architecture.
        compute: how it is computed.
        dropout: rates of dropout.
        masking: which tokens are masked.
        vocabulary: vocabulary of the tokenizer.
        num_steps: number of updates of the whole run, in which the masking rate goes from
            `masking.rate` to `masking.end_rate`. A constant rate does not need it.
        has_labels: whether pairs have labels; without them there is no NSP loss.

    Source: Devlin et al. 2018, appendix A.2.
    """
    forward: Callable[..., PretrainOutputs | PretrainSums] = pretraining.apply
    if compute.mlm_logits == "chunked":
        forward = pretraining.apply_with_loss

    def prepare(
        batch: PretrainBatch, key: jax.Array, step: jax.Array | int
    ) -> _PretrainRows:
        mask_key, dropout_key = jax.random.split(key)
        rate = rate_at(masking, step, num_steps)
        masked = mask_tokens(masking, batch, vocabulary, mask_key, rate)
        keys = row_keys(dropout_key, batch.input_ids.shape[0])
        assert keys is not None
        return _PretrainRows(batch, masked, keys)

    def weights(rows: _PretrainRows) -> dict[str, jax.Array]:
        found = {"mlm_loss": rows.masked.weights.sum()}
        if has_labels:
            found["nsp_loss"] = rows.batch.nsp_weights.sum()
        return found

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
        work = pretrain_work(rows.batch, rows.masked.weights, model.local_reach)
        _, means = pretrain_loss(
            outputs, rows.batch, rows.masked, has_labels=has_labels
        )
        found = {**means, "work": work}
        if not masking.is_judged_alike:
            found["masked_share"] = masked_share(rows.batch, rows.masked)
        return found

    return Objective(prepare, weights, metrics)


def task_objective(
    task: Task, model: ModelConfig, compute: ComputeConfig, dropout: DropoutConfig
) -> Objective:
    """The loss of a task on labelled rows, with dropout."""

    def prepare(
        batch: ClassifyBatch, key: jax.Array, step: jax.Array | int
    ) -> _TextRows:
        keys = row_keys(key, batch.input_ids.shape[0])
        assert keys is not None
        return _TextRows(batch, keys)

    def weights(rows: _TextRows) -> dict[str, jax.Array]:
        return task.loss_weights(rows.batch)

    def metrics(params: Any, rows: _TextRows) -> dict[str, Any]:
        logits = task.apply(
            model, params, rows.batch, compute=compute, dropout=dropout, key=rows.keys
        )
        return {
            **task.loss(logits, rows.batch),
            "work": text_work(rows.batch, model.local_reach),
        }

    return Objective(prepare, weights, metrics)
