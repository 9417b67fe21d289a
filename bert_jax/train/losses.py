"""Losses as ratios of global sums.

Each metric is kept as (sum, weight). These are added over devices, micro-batches or
evaluation batches before the one division, so unequal numbers of masks never shift a
mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import PretrainBatch
from bert_jax.model.linear_cross_entropy import num_maxima
from bert_jax.model.masking import MaskedBatch
from bert_jax.model.pretraining import PretrainOutputs, PretrainSums


class Mean(NamedTuple):
    """A mean that has not been divided yet."""

    sum: jax.Array
    weight: jax.Array

    def value(self) -> jax.Array:
        """The mean, or 0 if nothing was counted."""
        counted = self.weight != 0.0
        return jnp.where(counted, self.sum / jnp.where(counted, self.weight, 1.0), 0.0)


def weighted(values: jax.Array, weights: jax.Array) -> Mean:
    return Mean((values * weights).sum(), weights.sum())


def masked_share(batch: PretrainBatch, masked: MaskedBatch) -> Mean:
    """The share of the real tokens, special ones included, that are hidden."""
    real = (batch.sequence_ids > 0).sum(dtype=jnp.float32)
    return Mean(masked.weights.sum(), real)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[Mean, Mean]:
    """Weighted cross-entropy in nats and accuracy over the last axis of `logits`.

    A label among n equal maxima counts 1 / n in the accuracy, which is the expected value
    of a random choice. So constant logits score chance, and no argmax is needed.
    """
    top = jax.lax.stop_gradient(logits.max(axis=-1))
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    exps = jnp.exp(logits - top[..., None])
    log_sum = jnp.log(exps.sum(axis=-1)) + top
    hits = (label_logits >= top) / num_maxima(exps)
    return weighted(log_sum - label_logits, weights), weighted(hits, weights)


def pretrain_loss(
    outputs: PretrainOutputs | PretrainSums,
    batch: PretrainBatch,
    masked: MaskedBatch,
    *,
    has_labels: bool = True,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean MLM loss over masked tokens plus mean NSP loss over labelled pairs, in nats.

    Args:
        outputs: of the model.
        batch: rows before masking.
        masked: the same rows after `mask_tokens`.
        has_labels: static; False leaves the NSP loss out, for single segments.

    Returns:
        The loss, and all losses and accuracies as undivided means.

    Source: Devlin et al. 2018, appendix A.2.
    """
    if isinstance(outputs, PretrainSums):
        weight = masked.weights.sum()
        mlm_loss = Mean(outputs.mlm_loss, weight)
        mlm_accuracy = Mean(outputs.mlm_hits, weight)
    else:
        # As the head's product made them: where M is no multiple of 8, a TPU would move all
        # logits for the axes [B, M, V].
        logits_RV = outputs.mlm_logits.reshape(-1, outputs.mlm_logits.shape[-1])
        mlm_loss, mlm_accuracy = cross_entropy(
            logits_RV, masked.labels.reshape(-1), masked.weights.reshape(-1)
        )
    metrics = {"mlm_loss": mlm_loss, "mlm_accuracy": mlm_accuracy}
    if not has_labels:
        return mlm_loss.value(), metrics
    assert outputs.nsp_logits is not None, "labels of pairs, but no head for them"
    nsp_loss, nsp_accuracy = cross_entropy(
        outputs.nsp_logits, batch.nsp_labels, batch.nsp_weights
    )
    metrics |= {"nsp_loss": nsp_loss, "nsp_accuracy": nsp_accuracy}
    return mlm_loss.value() + nsp_loss.value(), metrics
