"""The useful arithmetic of training: what a step must compute, however it is done.

MFU, the model FLOP/s utilisation, divides it by the time and by the peak of the chips
(Chowdhery et al. 2022, PaLM, section 4.1 and appendix B).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import LoopConfig, ModelConfig, OptimizerConfig
from bert_jax.limits import NUM_NSP_CLASSES
from bert_jax.runtime.chips import chip_of


class Work(NamedTuple):
    """What batches hold that a model must work on; padding is none of it.

    Fields are float32 scalars of one batch, exact up to 2^24 and then to seven digits,
    or Python floats: sums over several.
    """

    tokens: jax.Array | float
    """Real tokens."""
    attention_pairs: jax.Array | float
    """Ordered pairs of tokens of one sequence, itself included: sums of squared lengths."""
    sequences: jax.Array | float
    """Pairs of sentences, or texts to classify."""
    masked_slots: jax.Array | float
    """Hidden tokens to predict."""


def pretrain_work(batch: PretrainBatch, slot_weights: jax.Array) -> Work:
    """Counts a pretraining batch, on the device.

    Args:
        batch: at most P sequences a row, numbered from 1.
        slot_weights: float32 [B, M], 1 on used slots, else 0.
    """
    numbers = jnp.arange(1, batch.cls_positions.shape[1] + 1)
    is_of = batch.sequence_ids[:, :, None] == numbers[None, None]
    lengths = is_of.sum(axis=1, dtype=jnp.int32)  # [B, P]
    return _work(lengths, slot_weights.sum())


def text_work(batch: ClassifyBatch) -> Work:
    """Counts a batch of texts, on the device; rows that only fill it up are none."""
    lengths = batch.input_mask.sum(axis=1, dtype=jnp.int32)
    return _work(jnp.where(batch.weights > 0, lengths, 0)[:, None], jnp.zeros(()))


def _work(lengths: jax.Array, masked_slots: jax.Array) -> Work:
    def total(values: jax.Array) -> jax.Array:
        return values.sum(axis=1).astype(jnp.float32).sum()

    return Work(
        tokens=total(lengths),
        attention_pairs=total(lengths * lengths),
        sequences=total((lengths > 0).astype(jnp.int32)),
        masked_slots=masked_slots.astype(jnp.float32),
    )


def train_flops(
    cfg: ModelConfig,
    work: Work,
    *,
    num_classes: int = NUM_NSP_CLASSES,
    pooled: bool = True,
) -> float:
    """FLOPs of forward and backward passes over `work`, matrix products only.

    With D `hidden_size`, F `mlp_size`, V `vocab_size`, L `num_layers`, a multiplication
    and an addition two FLOPs, the forward pass takes

        L * (8 D^2 + 4 D F)   a token (queries, keys, values, output; up, down)
        L * 4 D               a pair of tokens that attend to each other
        2 D^2 + 2 D C         a sequence (pooler, and its head of C classes), or
        2 D C                 a token, where the head of C classes is over every token
        2 D^2 + 2 D V         a masked slot (transform, token table)

    and the backward pass twice that. Recomputation counts nothing (that would be
    hardware utilisation), nor do padding, the padding of the token table, table look-ups,
    norms, softmax, dropout and the optimizer.

    Source: Narayanan et al. 2021, appendix, for GPT; here without padding, with
    attention inside sequences only and the heads of BERT.
    """
    d, f, layers = cfg.hidden_size, cfg.mlp_size, cfg.num_layers
    head = work.tokens * 2 * d * num_classes
    if pooled:
        head = work.sequences * (2 * d * d + 2 * d * num_classes)
    forward = (
        work.tokens * layers * (8 * d * d + 4 * d * f)
        + work.attention_pairs * layers * 4 * d
        + head
        + work.masked_slots * (2 * d * d + 2 * d * cfg.vocab_size)
    )
    return 3.0 * float(forward)


def counted_flops(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    *,
    num_classes: int = NUM_NSP_CLASSES,
    pooled: bool = True,
) -> Callable[[Work], float] | None:
    """`train_flops` of `model`; None where frozen parameters save an uncounted part."""
    if optimizer.freeze or optimizer.freeze_layers:
        return None
    return functools.partial(train_flops, model, num_classes=num_classes, pooled=pooled)


def peak_flops(mesh: Mesh, cfg: LoopConfig) -> float | None:
    """FLOP/s of all devices together: as `cfg` says, else of known chips, else None."""
    devices = mesh.devices.flat
    if cfg.peak_tflops is not None:
        return 1e12 * cfg.peak_tflops * len(devices)
    chips = [chip_of(device.device_kind) for device in devices]
    if None in chips:
        return None
    return sum(chip.device_peak_flops for chip in chips if chip)


def speeds(
    work: Work | None,
    seconds: float,
    rates: dict[str, str],
    flops: Callable[[Work], float] | None,
    peak: float | None,
) -> dict[str, float]:
    """What was done a second, and "mfu" where useful FLOPs and a peak are known.

    Args:
        work: done in `seconds`; None: nothing was timed, and there is no rate.
        rates: name of a rate -> the field of `work` that it counts.
        flops: useful FLOPs of some work.
        peak: FLOP/s of all devices together.
    """
    if work is None:
        return {}
    found = {name: getattr(work, field) / seconds for name, field in rates.items()}
    if flops is not None and peak is not None:
        found["mfu"] = flops(work) / seconds / peak
    return found
