"""What may change without another result: where arrays live, and what is computed twice.

The rows of the global batch, the rates, the masks and dropout stay as the config says,
so a run is the same run, up to rounding, with any of these choices.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from bert_jax.config import MeshConfig, ModelConfig, PretrainConfig

# Beyond these, a part is too small to be worth its collectives.
_MAX_TENSOR = 16
_MIN_TOKENS = 64
_MAX_MICRO_BATCHES = 64

# As the fields of `ModelConfig` of the same names.
Remat = Literal["none", "attention", "dots", "full"]
Attention = Literal["auto", "xla", "splash", "fused", "triton"]
MlmLogits = Literal["whole", "chunked"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to lay a run out and to recompute."""

    mesh: MeshConfig
    remat: Remat
    attention: Attention
    mlm_logits: MlmLogits
    micro_batches: tuple[int, ...]
    """One number a phase."""

    def apply(self, cfg: PretrainConfig) -> PretrainConfig:
        """The same run, laid out like this.

        Raises:
            ValueError: the rows of a phase are no multiple of its micro-batches.
        """
        phases = tuple(
            dataclasses.replace(phase, micro_batches=count)
            for phase, count in zip(
                cfg.next_phases, self.micro_batches[1:], strict=True
            )
        )
        return dataclasses.replace(
            cfg,
            model=dataclasses.replace(
                cfg.model,
                remat=self.remat,
                attention=self.attention,
                mlm_logits=self.mlm_logits,
            ),
            mesh=self.mesh,
            micro_batches=self.micro_batches[0],
            next_phases=phases,
        )

    def changes(self, other: "Choice") -> list[str]:
        """What `other` sets differently, as `field=value` of the config."""
        changed = [
            f"mesh.{field.name}={getattr(other.mesh, field.name)}"
            for field in dataclasses.fields(MeshConfig)
            if getattr(other.mesh, field.name) != getattr(self.mesh, field.name)
        ]
        changed += [
            f"model.{name}={getattr(other, name)}"
            for name in ("remat", "attention", "mlm_logits")
            if getattr(other, name) != getattr(self, name)
        ]
        for number, (mine, its) in enumerate(
            zip(self.micro_batches, other.micro_batches, strict=True)
        ):
            if mine != its:
                where = f"next_phases[{number - 1}]." if number else ""
                changed.append(f"{where}micro_batches={its}")
        return changed

    def describe(self) -> str:
        """One line for people: axes of one device are left out."""
        axes = [
            f"{name}={getattr(self.mesh, name)}"
            for name in ("slices", "data", "fsdp", "sequence", "tensor")
            if getattr(self.mesh, name) != 1
        ]
        if self.mesh.shard_update:
            axes.append("shard_update")
        counts = "+".join(map(str, self.micro_batches))
        return (
            f"mesh {' '.join(axes) or 'of one device'}, remat {self.remat}, attention "
            f"{self.attention}, logits {self.mlm_logits}, micro-batches {counts}"
        )


def choice_of(cfg: PretrainConfig, num_devices: int, num_slices: int) -> Choice:
    """What a config says now, with the axes that it leaves open worked out.

    Args:
        num_devices: of all slices.

    Raises:
        ValueError: the mesh does not lay out such slices.
    """
    return Choice(
        mesh=whole_mesh(cfg.mesh, num_devices, num_slices),
        remat=cfg.model.remat,
        attention=cfg.model.attention,
        mlm_logits=cfg.model.mlm_logits,
        micro_batches=tuple(phase.micro_batches for phase in cfg.phases),
    )


def whole_mesh(mesh: MeshConfig, num_devices: int, num_slices: int) -> MeshConfig:
    """The mesh with every axis as a number of devices.

    Raises:
        ValueError: the mesh does not lay out such slices.
    """
    if mesh.slices not in (None, num_slices):
        raise ValueError(
            f"MeshConfig.slices={mesh.slices}, but the topology has {num_slices}; leave "
            "it out, and it follows the devices."
        )
    a_slice = num_devices // num_slices
    axes = {n: getattr(mesh, n) for n in ("data", "fsdp", "sequence", "tensor")}
    fixed = math.prod(max(size, 1) for size in axes.values())
    sizes = {n: a_slice // fixed if s == -1 else s for n, s in axes.items()}
    if math.prod(sizes.values()) != a_slice:
        asked = " * ".join(f"{name}={size}" for name, size in axes.items())
        raise ValueError(
            f"MeshConfig asks for {asked} devices, but a slice of the topology has "
            f"{a_slice}; make the axes multiply to that, or leave one of them at -1."
        )
    return dataclasses.replace(mesh, slices=num_slices, **sizes)


def layouts(
    cfg: PretrainConfig,
    *,
    num_devices: int,
    num_slices: int,
    kernels: Sequence[Attention],
) -> Iterator[Choice]:
    """Every choice that divides evenly, each with its fewest micro-batches.

    Args:
        num_devices: of all slices.
        kernels: of attention, what `ModelConfig.attention` may be.
    """
    for mesh in meshes(cfg, num_devices=num_devices, num_slices=num_slices):
        counts = tuple(micro_batch_counts(phase, mesh) for phase in cfg.phases)
        if not all(counts):
            continue
        for remat in get_args(Remat):
            for kernel in kernels:
                for logits in get_args(MlmLogits):
                    yield Choice(
                        mesh=mesh,
                        remat=remat,
                        attention=kernel,
                        mlm_logits=logits,
                        micro_batches=tuple(count[0] for count in counts),
                    )


def meshes(
    cfg: PretrainConfig, *, num_devices: int, num_slices: int
) -> Iterator[MeshConfig]:
    """Every mesh that divides model, rows and tokens of all phases."""
    model, a_slice = cfg.model, num_devices // num_slices
    lengths = [n for phase in cfg.phases for n in row_lengths(phase)]
    for tensor in _divisors(a_slice):
        if tensor > _MAX_TENSOR or not _splits_heads(model, tensor):
            continue
        for sequence in _divisors(a_slice // tensor):
            if sequence > 1 and any(
                n % sequence or n // sequence < _MIN_TOKENS for n in lengths
            ):
                continue
            for fsdp in _divisors(a_slice // tensor // sequence):
                if model.hidden_size % fsdp or model.padded_vocab_size % (
                    fsdp * tensor
                ):
                    continue
                data = a_slice // tensor // sequence // fsdp
                for shard_update in (False, True):
                    if shard_update and data == 1:
                        continue
                    yield MeshConfig(
                        slices=num_slices,
                        data=data,
                        fsdp=fsdp,
                        sequence=sequence,
                        tensor=tensor,
                        shard_update=shard_update,
                    )


def row_lengths(phase: PretrainConfig) -> tuple[int, ...]:
    """T of the batches of a phase: one, or each bucket's."""
    if phase.data.layout == "buckets":
        return phase.data.buckets
    return (phase.data.sequence_length,)


def micro_batch_counts(phase: PretrainConfig, mesh: MeshConfig) -> tuple[int, ...]:
    """Into how many parts a batch can be cut on this mesh, ascending.

    Powers of two and what the config says, as far as every device has whole rows.
    """
    rows = (mesh.slices or 1) * mesh.data * mesh.fsdp
    counts = {phase.micro_batches}
    count = 1
    while count <= _MAX_MICRO_BATCHES:
        counts.add(count)
        count *= 2
    return tuple(n for n in sorted(counts) if phase.batch_size % (n * rows) == 0)


def kernels_of(cfg: PretrainConfig) -> tuple[Attention, ...]:
    """Kernels of attention to try: auto beside XLA's own; one that is named is kept."""
    return ("auto", "xla") if cfg.model.attention == "auto" else (cfg.model.attention,)


def _splits_heads(model: ModelConfig, tensor: int) -> bool:
    sizes = (model.num_heads, model.mlp_size, model.padded_vocab_size)
    return not any(size % tensor for size in sizes)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
