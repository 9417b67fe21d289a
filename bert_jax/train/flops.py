"""Counts the useful FLOPs of training: those that a step needs, however it is done.

MFU, the model FLOP/s utilisation, is the useful FLOPs divided by the time and by the
peak FLOP/s of the chips (Chowdhery et al. 2022, PaLM, section 4.1 and appendix B).
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
    """What a model must work on in one or several batches. Padding is not counted.

    The fields of one batch are float32 scalars, which are exact up to 2^24 and have seven
    digits beyond. The fields of several batches are Python floats.
    """

    tokens: jax.Array | float
    """Number of real tokens."""
    attention_pairs: jax.Array | float
    """Number of ordered pairs of tokens that attend to each other, pairs of a token with
    itself included. It is the sum of the squared lengths of the sequences."""
    sequences: jax.Array | float
    """Number of sentence pairs, or of rows that hold labelled text."""
    masked_slots: jax.Array | float
    """Number of hidden tokens to predict."""
    examples: jax.Array | float = 0.0
    """Number of labelled examples, each of one text or of a group; 0 in pretraining."""


def pretrain_work(batch: PretrainBatch, slot_weights: jax.Array) -> Work:
    """Counts the work in a pretraining batch, on the device.

    Args:
        batch: rows with at most P sequences each, numbered from 1.
        slot_weights: float32 [B, M], 1 on used slots, else 0.
    """
    numbers = jnp.arange(1, batch.cls_positions.shape[1] + 1)
    is_of = batch.sequence_ids[:, :, None] == numbers[None, None]
    lengths = is_of.sum(axis=1, dtype=jnp.int32)  # [B, P]
    return _work(lengths, slot_weights.sum())


def text_work(batch: ClassifyBatch) -> Work:
    """Counts the work in a batch of texts, on the device, without rows of weight 0."""
    counted = batch.weights > 0
    lengths = batch.input_mask.sum(axis=-1, dtype=jnp.int32)
    lengths = lengths.reshape(counted.shape[0], -1)  # of the rows of each group
    work = _work(jnp.where(counted[:, None], lengths, 0), jnp.zeros(()))
    return work._replace(examples=counted.sum(dtype=jnp.float32))


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
    """FLOPs of the matrix products in the forward and backward passes over `work`.

    A multiplication and an addition count as two FLOPs. With D `hidden_size`, F
    `mlp_size`, V `vocab_size`, L `num_layers` and C `num_classes`, the forward pass takes

        L * (8 D^2 + 4 D F)   per token (queries, keys, values, output; up, down)
        L * 4 D               per pair of tokens that attend to each other
        2 D^2 + 2 D C         per sequence (pooler and head), if `pooled`; else
        2 D C                 per token (head over every token)
        2 D^2 + 2 D V         per masked slot (transform, token table)

    and the backward pass takes twice as much. Not counted are: recomputation (with it,
    the ratio would be hardware utilisation), padding, the padding of the token table,
    table look-ups, norms, softmax, dropout and the optimizer.

    Source: Narayanan et al. 2021, appendix, for GPT. Changed here: no padding, attention
    inside sequences only, the heads of BERT.
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
    """`train_flops` for `model`, or None if some parameters are frozen.

    Frozen parameters save a part of the backward pass that nobody counts here.
    """
    if optimizer.freeze or optimizer.freeze_layers:
        return None
    return functools.partial(train_flops, model, num_classes=num_classes, pooled=pooled)


def peak_flops(mesh: Mesh, cfg: LoopConfig) -> float | None:
    """Peak FLOP/s of all devices together, or None if it is unknown.

    It comes from `cfg.peak_tflops` if that is set, else from the table of known chips.
    """
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
    """Rates per second, and "mfu" if useful FLOPs and a peak are known.

    Args:
        work: work done in `seconds`. With None nothing was timed, and there are no rates.
        seconds: time of that work.
        rates: dict from the name of a rate to the field of `work` that it counts.
        flops: counts the useful FLOPs of some work. None: unknown.
        peak: peak FLOP/s of all devices together. None: unknown.
    """
    if work is None:
        return {}
    found = {name: getattr(work, field) / seconds for name, field in rates.items()}
    if flops is not None and peak is not None:
        found["mfu"] = flops(work) / seconds / peak
    return found
