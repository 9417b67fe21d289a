"""Memory and time of a step from shapes alone: good enough to order what to compile.

A compile says what is true; this says what to compile first. The search corrects it by
every program that it has compiled (`search.py`).

Names: D hidden, F feed-forward, L layers, N heads, T tokens of a row, V padded
vocabulary.
"""

import dataclasses
from typing import NamedTuple

from bert_jax.config import MeshConfig, ModelConfig, PretrainConfig
from bert_jax.model.linear_cross_entropy import CHUNK_BYTES
from bert_jax.runtime.chips import Chip
from bert_jax.topology.choices import row_lengths

# Bytes that the backward pass keeps, in bfloat16 with float32 norms and residuals, of a
# token and layer: per unit of D, of F, and of N * T attention weights. Fitted to what
# libtpu 0.0.52 reports for base and large at T=128 and 512.
_KEPT = {
    "none": (41.0, 10.0, 7.0),
    "attention": (41.0, 10.0, 0.0),
    "dots": (18.0, 2.0, 0.0),
    "full": (4.0, 0.0, 0.0),
}
# Kernels that never write attention weights to memory.
_ON_CHIP = ("auto", "fused", "splash")
# Of a logit: float32 value and gradient, and what the loss makes of them.
_LOGIT_BYTES = 10.0
# Passes over a kept byte: written, read, and what fusions read again.
_PASSES = 3.0
# Bytes that move for each parameter besides its use and update: gathering and casting
# weights, stacking and sharing gradients. Between what base and large take.
_STATE_TRAFFIC = 24.0


class Prediction(NamedTuple):
    """Of one step on one chip."""

    state_bytes: float
    """Parameters, moments and gradients."""
    activation_bytes: float
    """What one micro-batch keeps for its backward pass, and the logits."""
    seconds: float

    @property
    def total_bytes(self) -> float:
        return self.state_bytes + self.activation_bytes


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters of a model, by how a mesh splits them."""

    layer: int
    """Matrices of one encoder layer, over fsdp and tensor."""
    table: int
    """The token table, over fsdp and tensor."""
    other: int
    """Everything else, on every chip."""

    @property
    def total_split(self) -> int:
        return self.layer + self.table


def count_parameters(cfg: ModelConfig) -> Counts:
    """Of BERT with both heads; vectors of the layers count among the rest."""
    width, inner = cfg.hidden_size, cfg.mlp_size
    matrices = 4 * width * width + 2 * width * inner
    vectors = 9 * width + inner
    tables = (cfg.max_positions + cfg.num_segments + 2) * width
    heads = 2 * width * width + 6 * width + cfg.padded_vocab_size + 2
    return Counts(
        layer=cfg.num_layers * matrices,
        table=cfg.padded_vocab_size * width,
        other=cfg.num_layers * vectors + tables + heads,
    )


def predict(phase: PretrainConfig, mesh: MeshConfig, chip: Chip) -> Prediction:
    """Memory and time of one step of a phase on one chip of a mesh.

    Args:
        phase: one of `PretrainConfig.phases`; its own `mesh` is not read.
        mesh: without an axis of -1.
    """
    return Prediction(
        _state_bytes(phase, mesh),
        _activation_bytes(phase, mesh),
        _seconds(phase, mesh, chip),
    )


def _state_bytes(phase: PretrainConfig, mesh: MeshConfig) -> float:
    counts = count_parameters(phase.model)
    here = counts.total_split / (mesh.fsdp * mesh.tensor) + counts.other
    copies = mesh.data if mesh.shard_update else 1
    gradients = 4 if phase.micro_batches == 1 else 8
    # float32 weights, one copy in the compute dtype, two moments, gradients.
    weights = 4 + (2 if phase.model.compute_dtype == "bfloat16" else 0)
    return here * (weights + (8 + gradients) / copies)


def _activation_bytes(phase: PretrainConfig, mesh: MeshConfig) -> float:
    model, micro = phase.model, phase.micro_batches
    most = 0.0
    for length in row_lengths(phase):
        tokens = _rows(phase, mesh, length) / micro * length / mesh.sequence
        kept = model.num_layers * _kept_bytes(model, model.remat, length, mesh)
        # While one layer runs backwards, all of it is there.
        kept += _kept_bytes(model, "none", length, mesh)
        slots = _rows(phase, mesh, length) / micro * phase.masking.num_slots(length)
        logits = slots * model.padded_vocab_size / mesh.tensor
        if model.mlm_logits == "chunked":
            logits = min(logits, CHUNK_BYTES / 4)
        most = max(most, tokens * kept + _LOGIT_BYTES * logits)
    return most


def _kept_bytes(model: ModelConfig, remat: str, length: int, mesh: MeshConfig) -> float:
    """Of a token and layer."""
    per_width, per_inner, per_weight = _KEPT[remat]
    if model.attention in _ON_CHIP:
        per_weight = 0.0
    wide = 2.0 if model.compute_dtype == "float32" else 1.0
    return wide * (
        per_width * model.hidden_size
        + per_inner * model.mlp_size / mesh.tensor
        + per_weight * model.num_heads * length / mesh.tensor
    )


def _seconds(phase: PretrainConfig, mesh: MeshConfig, chip: Chip) -> float:
    """The slower of arithmetic and memory, and the collectives after it."""
    longest = max(row_lengths(phase))
    arithmetic = _flops(phase, mesh, longest) / chip.device_peak_flops
    bandwidth = chip.hbm_bytes_per_sec / chip.devices_per_chip
    memory = _traffic(phase, mesh, longest) / bandwidth
    return max(arithmetic, memory) + _collectives(phase, mesh, longest, chip)


def _flops(phase: PretrainConfig, mesh: MeshConfig, length: int) -> float:
    """Of a chip: products forward and backward, and those that are made again."""
    model = phase.model
    counts = count_parameters(model)
    tokens = _rows(phase, mesh, length) * length / (mesh.sequence * mesh.tensor)
    layers = 2.0 * counts.layer * tokens
    attention = 4.0 * model.num_layers * model.hidden_size * length * tokens
    slots = _rows(phase, mesh, length) * phase.masking.num_slots(length)
    head = 2.0 * counts.table * slots / mesh.tensor
    total = 3.0 * (layers + attention + head)
    if model.remat == "full":
        total += layers + attention
    elif model.remat in ("attention", "dots"):
        total += attention
    return total


def _traffic(phase: PretrainConfig, mesh: MeshConfig, length: int) -> float:
    """Bytes that a chip moves to and from its memory."""
    model, micro = phase.model, phase.micro_batches
    counts = count_parameters(model)
    here = counts.total_split / (mesh.fsdp * mesh.tensor) + counts.other
    copies = mesh.data if mesh.shard_update else 1
    # Gradient, moments and weights are read, moments and weights written.
    update = 28.0 * here / copies + _STATE_TRAFFIC * here
    wide = 4.0 if model.compute_dtype == "float32" else 2.0
    weights = micro * 3.0 * wide * (counts.total_split / mesh.tensor + counts.other)
    gradients = (micro - 1) * 12.0 * here
    tokens = _rows(phase, mesh, length) * length / mesh.sequence
    passes = _PASSES + (1.0 if model.remat in ("dots", "full") else 0.0)
    kept = model.num_layers * _kept_bytes(model, "none", length, mesh)
    return update + weights + gradients + passes * tokens * kept


def _collectives(
    phase: PretrainConfig, mesh: MeshConfig, length: int, chip: Chip
) -> float:
    model, micro = phase.model, phase.micro_batches
    counts = count_parameters(model)
    here = counts.total_split / (mesh.fsdp * mesh.tensor) + counts.other
    slices = mesh.slices or 1
    ring = min(2, chip.num_links) * chip.link_bytes_per_sec

    def gathered(num_bytes: float, parts: int, rate: float = ring) -> float:
        """Seconds until every part has all `num_bytes`, or a share of their sum."""
        return (parts - 1) / parts * num_bytes / rate

    seconds = 2.0 * gathered(4.0 * here, mesh.data * mesh.sequence)
    seconds += 2.0 * gathered(4.0 * here, slices, chip.network_bytes_per_sec)
    wide = 4.0 if model.compute_dtype == "float32" else 2.0
    split = counts.total_split / mesh.tensor
    # Weights are gathered for each pass, gradients are scattered once.
    seconds += micro * gathered((2.0 * wide + 4.0) * split, mesh.fsdp)
    tokens = _rows(phase, mesh, length) * length / mesh.sequence
    layer = wide * tokens * model.hidden_size
    seconds += model.num_layers * 8.0 * gathered(layer, mesh.tensor)
    whole = layer * mesh.sequence / mesh.tensor
    seconds += model.num_layers * 6.0 * gathered(whole, mesh.sequence)
    return seconds


def _rows(phase: PretrainConfig, mesh: MeshConfig, length: int) -> float:
    """Rows of a whole batch on one chip."""
    rows = phase.batch_size * (phase.data.sequence_length // length)
    return rows / ((mesh.slices or 1) * mesh.data * mesh.fsdp)
