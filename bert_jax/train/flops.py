"""Counts the useful FLOPs of training: those that a step needs, however it is done.

MFU, the model FLOP/s utilisation, is the useful FLOPs divided by the time and by the
peak FLOP/s of the chips (Chowdhery et al. 2022, PaLM, section 4.1 and appendix B).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import LoopConfig, ModelConfig, OptimizerConfig
from bert_jax.limits import NUM_NSP_CLASSES
from bert_jax.runtime.chips import PEAK_FLOPS


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
    local_pairs: jax.Array | float = 0.0
    """As `attention_pairs`, but of a layer with a window; 0 where no layer has one."""


def pretrain_work(
    batch: PretrainBatch, slot_weights: jax.Array, reach: int | None = None
) -> Work:
    """Counts the work in a pretraining batch, on the device.

    Args:
        batch: rows with at most P sequences each, numbered from 1.
        slot_weights: float32 [B, M], 1 on used slots, else 0.
        reach: of local layers, as `ModelConfig.local_reach`.
    """
    numbers = jnp.arange(1, batch.cls_positions.shape[1] + 1)
    is_of = batch.sequence_ids[:, :, None] == numbers[None, None]
    lengths = is_of.sum(axis=1, dtype=jnp.int32)  # [B, P]
    return _work(lengths, slot_weights.sum(), reach)


def text_work(batch: ClassifyBatch, reach: int | None = None) -> Work:
    """Counts the work in a batch of texts, on the device, without rows of weight 0."""
    counted = batch.weights > 0
    lengths = batch.input_mask.sum(axis=-1, dtype=jnp.int32)
    lengths = lengths.reshape(counted.shape[0], -1)  # of the rows of each group
    work = _work(jnp.where(counted[:, None], lengths, 0), jnp.zeros(()), reach)
    return work._replace(examples=counted.sum(dtype=jnp.float32))


def _work(lengths: jax.Array, masked_slots: jax.Array, reach: int | None) -> Work:
    def total(values: jax.Array) -> jax.Array:
        return values.sum(axis=1).astype(jnp.float32).sum()

    local_pairs: jax.Array | float = 0.0
    if reach is not None:
        local_pairs = total(pairs_in_window(lengths, jnp.minimum(lengths, reach)))
    return Work(
        tokens=total(lengths),
        attention_pairs=total(lengths * lengths),
        sequences=total((lengths > 0).astype(jnp.int32)),
        masked_slots=masked_slots.astype(jnp.float32),
        local_pairs=local_pairs,
    )


def pairs_in_window(length: Any, reach: Any) -> Any:
    """Ordered pairs of the tokens of a sequence that are at most `reach` places apart.

    Args:
        length: of the sequence.
        reach: at most `length`.
    """
    return length + reach * (reach - 1) + 2 * (length - reach) * reach


def train_flops(
    cfg: ModelConfig,
    work: Work,
    *,
    num_classes: int | None = None,
    pooled: bool = True,
) -> float:
    """FLOPs of the matrix products in the forward and backward passes over `work`.

    A multiplication and an addition count as two FLOPs. With D `hidden_size`, K the
    width of all heads of keys, F `mlp_size`, G 3 for a gated feed-forward layer, else 2,
    V `vocab_size`, E the width of the token table, L layers, C `num_classes` (default: those
    of the next-sentence head, if the model has one), the forward pass takes

        L * (4 D^2 + 4 D K + 2 G D F)   per token (queries, output; keys, values; MLP)
        4 D                   per layer and pair of tokens that attend to each other
        2 E D                 per token, if a matrix widens the embeddings
        2 D^2 + 2 D C         per sequence (pooler and head), if `pooled`; else
        2 D C                 per token (head over every token)
        2 D E + 2 E V         per masked slot (transform, token table)

    and the backward pass takes twice as much. Not counted are: recomputation (with it,
    the ratio would be hardware utilisation), padding, the padding of the token table,
    table look-ups, norms, softmax, dropout and the optimizer.

    Source: Narayanan et al. 2021, appendix, for GPT. Changed here: no padding, attention
    inside sequences only, the heads of BERT.
    """
    d, f, e = cfg.hidden_size, cfg.mlp_size, cfg.token_width
    if num_classes is None:  # pretraining
        pooled = cfg.next_sentence
        num_classes = NUM_NSP_CLASSES if pooled else 0
    kv = cfg.kv_heads * cfg.head_size
    num_matrices = 2 if cfg.mlp == "gelu" else 3
    num_global = sum(cfg.reach(layer) is None for layer in range(cfg.num_layers))
    pairs = num_global * work.attention_pairs
    pairs += (cfg.num_layers - num_global) * work.local_pairs
    layer = 4 * d * d + 4 * d * kv + 2 * num_matrices * d * f
    widening = 2 * e * d if cfg.embed_size is not None else 0
    if pooled:
        head = work.sequences * (2 * d * d + 2 * d * num_classes)
    else:
        head = work.tokens * 2 * d * num_classes
    slot = 2 * d * e if cfg.mlm_transform else 0
    forward = (
        work.tokens * (cfg.num_layers * layer + widening)
        + pairs * 4 * d
        + head
        + work.masked_slots * (slot + 2 * e * cfg.vocab_size)
    )
    return 3.0 * float(forward)


def counted_flops(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    *,
    num_classes: int | None = None,
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
    kinds = [device.device_kind for device in devices]
    if not PEAK_FLOPS.keys() >= set(kinds):
        return None
    return sum(PEAK_FLOPS[kind] for kind in kinds)


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
