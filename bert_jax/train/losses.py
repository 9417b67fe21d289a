"""Losses as ratios of global sums.

Each metric travels as (sum, weight): sums over devices, micro-batches or evaluation
batches can be added before the one division, so an unequal number of masks never
shifts a mean.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import IGNORED_LABEL, Array, ClassifyBatch, PretrainBatch
from bert_jax.model.attention_xla import MASKED_SCORE
from bert_jax.model.masking import MaskedBatch
from bert_jax.model.pretraining import PretrainOutputs, PretrainSums


class Mean(NamedTuple):
    """A mean that has not been divided yet."""

    sum: jax.Array
    weight: jax.Array

    def value(self) -> jax.Array:
        """The mean; 0 where nothing was counted."""
        counted = self.weight != 0.0
        return jnp.where(counted, self.sum / jnp.where(counted, self.weight, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: the sum of some means over all rows of a batch.

    It comes in three steps, so that a batch can be worked through in parts.
    """

    prepare: Callable[[Any, jax.Array], Any]
    """(batch, key) -> all that the other two need, arrays with rows first: masks are
    drawn here, and keys of dropout, one a row."""
    weights: Callable[[Any], dict[str, jax.Array]]
    """(rows) -> the weight of each mean that adds to the loss, known without a model."""
    metrics: Callable[[Any, Any], dict[str, Mean]]
    """(params, rows) -> undivided means, those of `weights` among them."""


def weighted(values: jax.Array, weights: jax.Array) -> Mean:
    return Mean((values * weights).sum(), weights.sum())


def cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[Mean, Mean]:
    """Weighted cross-entropy in nats and accuracy over the last axis of `logits`.

    Accuracy breaks ties in expectation: a label among n equal maxima counts 1 / n, so
    constant logits score chance, and no separate argmax has to be found.
    """
    top = jax.lax.stop_gradient(logits.max(axis=-1))
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    log_sum = jnp.log(jnp.exp(logits - top[..., None]).sum(axis=-1)) + top
    num_top = (logits == top[..., None]).sum(axis=-1, dtype=jnp.float32)
    hits = (label_logits >= top) / num_top
    return weighted(log_sum - label_logits, weights), weighted(hits, weights)


def pretrain_loss(
    outputs: PretrainOutputs | PretrainSums,
    batch: PretrainBatch,
    masked: MaskedBatch,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Masked mean of the MLM loss plus mean of the NSP loss, in nats.

    Source: Devlin et al. 2018, appendix A.2.
    """
    if isinstance(outputs, PretrainSums):
        weight = masked.weights.sum()
        mlm_loss = Mean(outputs.mlm_loss, weight)
        mlm_accuracy = Mean(outputs.mlm_hits, weight)
    else:
        mlm_loss, mlm_accuracy = cross_entropy(
            outputs.mlm_logits, masked.labels, masked.weights
        )
    nsp_loss, nsp_accuracy = cross_entropy(
        outputs.nsp_logits, batch.nsp_labels, batch.nsp_weights
    )
    metrics = {
        "mlm_loss": mlm_loss,
        "mlm_accuracy": mlm_accuracy,
        "nsp_loss": nsp_loss,
        "nsp_accuracy": nsp_accuracy,
    }
    return mlm_loss.value() + nsp_loss.value(), metrics


def classify_loss(
    logits: jax.Array, batch: ClassifyBatch
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean cross-entropy of the labelled rows, in nats."""
    loss, accuracy = cross_entropy(logits, batch.labels, batch.weights)
    return loss.value(), {"loss": loss, "accuracy": accuracy}


def regress_loss(
    logits: jax.Array, batch: ClassifyBatch
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean squared error of the labelled rows.

    Args:
        logits: float32 [B, 1].
        batch: its labels are float32.
    """
    loss = weighted(jnp.square(logits[:, 0] - batch.labels), batch.weights)
    return loss.value(), {"loss": loss}


def token_loss(logits: jax.Array, labels: Array) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean cross-entropy of the labelled tokens, in nats.

    Args:
        logits: float32 [B, T, C].
        labels: int32 [B, T]; `IGNORED_LABEL` counts nowhere.
    """
    labelled = labels != IGNORED_LABEL
    loss, accuracy = cross_entropy(
        logits, jnp.where(labelled, labels, 0), labelled.astype(jnp.float32)
    )
    return loss.value(), {"token_loss": loss, "token_accuracy": accuracy}


def span_loss(
    logits: jax.Array, batch: ClassifyBatch, starts: Array, ends: Array
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean of the two cross-entropies of a span's ends over the real tokens, in nats.

    What stands in the padding has no part in it, so that a row's loss does not depend
    on how far it was padded. (Published fine-tuning code lets padding compete.)

    Args:
        logits: float32 [B, T, 2].
        batch: only its `input_mask` is read.
        starts, ends: int32 [B]; a position that is no real token counts nowhere, as
            where the answer was cut off. Rows without an answer point at [CLS].
    """
    real_BT = jnp.asarray(batch.input_mask) > 0
    logits = jnp.where(real_BT[:, :, None], logits, MASKED_SCORE)
    metrics: dict[str, Mean] = {}
    for end, (name, positions) in enumerate((("start", starts), ("end", ends))):
        inside = (positions >= 0) & (positions < real_BT.shape[1])
        places = jnp.where(inside, positions, 0)
        counted = inside & jnp.take_along_axis(real_BT, places[:, None], axis=1)[:, 0]
        metrics[f"{name}_loss"], metrics[f"{name}_accuracy"] = cross_entropy(
            logits[..., end],
            places,
            counted.astype(jnp.float32),
        )
    loss = (metrics["start_loss"].value() + metrics["end_loss"].value()) / 2.0
    return loss, metrics
