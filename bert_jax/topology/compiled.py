"""Compiles the real train step of one phase for a machine, and reads what it needs there."""

import collections
import dataclasses
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.batch import MaskVocabulary
from bert_jax.config import ModelConfig, PretrainConfig
from bert_jax.data.batches.rows import check_pairs
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.topology.arithmetic import flops_of
from bert_jax.topology.collectives import Collective, collectives_of
from bert_jax.topology.devices import Topology, devices_of
from bert_jax.topology.hlo import parse_hlo
from bert_jax.topology.program_text import program_text
from bert_jax.topology.traffic import hbm_bytes_of
from bert_jax.train.held_out import check_vocabulary
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import Program, pretrain_program, synthetic_vocabulary
from bert_jax.train.sharding import bytes_per_device

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class MemoryByKind:
    """Bytes on one device at the point of a step where most are needed."""

    parameters: int
    optimizer: int
    """Moments, counters and the root of the random streams."""
    batch: int
    temporaries: int | None
    """Activations kept for the backward pass, gradients and scratch memory; `None` where
    the compiler gave only the total."""
    code: int | None
    total: int
    """The compiler's own total, which includes the padding of layouts."""
    limit: int | None
    """What a program may use; `None` for a CPU."""

    @property
    def padding(self) -> int | None:
        """The total less its kinds: padding of layouts, and results such as metrics."""
        if self.temporaries is None or self.code is None:
            return None
        kinds = self.parameters + self.optimizer + self.batch
        return self.total - kinds - self.temporaries - self.code


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says about one phase on one machine; every chip is one device.

    A step that does not fit has no program, so it has no collectives and no work.
    """

    cfg: PretrainConfig
    """The config of this one phase."""
    topology: Topology
    mesh: Mapping[str, int]
    """Devices along each mesh axis, outermost first."""
    memory: MemoryByKind
    compile_secs: float
    program: Program = dataclasses.field(repr=False, compare=False)
    """What was compiled, with the abstract state and batch."""
    collectives: tuple[Collective, ...] = ()
    flops: float | None = None
    """FLOPs of matrix products and kernels on one device in one step, with everything that
    is computed a second time; `None` where the step does not fit."""
    hbm_bytes: float | None = None
    """Bytes that one device reads from and writes to its main memory in one step."""
    uncounted: tuple[str, ...] = ()
    """Kernels whose work is missing in `flops`, because they do not state it, and loops
    that count as one round, because their number of rounds is unknown."""

    @property
    def fits(self) -> bool:
        """Whether the step fits the memory of a device; true where no limit is known."""
        limit = self.memory.limit
        return self.flops is not None and (limit is None or self.memory.total <= limit)


@our_settings()
def compile_step(
    cfg: PretrainConfig,
    topology: Topology,
    *,
    vocabulary: MaskVocabulary | None = None,
    whole: PretrainConfig | None = None,
) -> CompiledStep:
    """Compiles the train step of one phase.

    A step that does not fit the memory is a result too: the compiler says how much it
    would need.

    Args:
        cfg: one of `PretrainConfig.phases`.
        vocabulary: the masking rules of the run's tokenizer. A synthetic one (the default)
            costs the same, but its ids are constants of the program, so the run would not
            find this program in a compile cache.
        whole: settings of the whole run, whose schedules are a part of the program as
            well. Default: this phase is the whole run.

    Raises:
        ValueError: the topology cannot be compiled for, or mesh, batch and model do not
            divide evenly.
    """
    if cfg.next_phases:
        raise ValueError(
            f"compile_step takes one phase, not {1 + len(cfg.next_phases)}; give it one "
            "of PretrainConfig.phases."
        )
    mesh = mesh_of(cfg, topology)
    program = pretrain_program(
        cfg, mesh, vocabulary or synthetic_vocabulary(cfg.model.vocab_size), whole
    )
    state = program.state
    chip = topology.chip
    memory = MemoryByKind(
        parameters=bytes_per_device(state.params),
        optimizer=bytes_per_device((state.step, state.opt_state, state.key)),
        batch=bytes_per_device(program.batch),
        temporaries=None,
        code=None,
        total=0,
        limit=None if chip is None else chip.usable_bytes,
    )
    step = CompiledStep(cfg, topology, dict(mesh.shape), memory, 0.0, program)
    start = time.monotonic()
    lowered = program.step.lower(state, program.batch)
    try:
        with warnings.catch_warnings():
            # This process cannot load a TPU's program from the compile cache, so it
            # compiles it again. The machine itself can load it.
            warnings.filterwarnings(
                "ignore", "Error reading persistent compilation cache entry"
            )
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return dataclasses.replace(
            step,
            memory=dataclasses.replace(memory, total=needed),
            compile_secs=time.monotonic() - start,
        )
    secs = time.monotonic() - start
    module = parse_hlo(program_text(lowered, compiled), _attention_shares(cfg.model))
    flops, silent_kernels = flops_of(module)
    return dataclasses.replace(
        step,
        memory=_with_compiled(memory, compiled),
        compile_secs=secs,
        collectives=collectives_of(module, step.mesh),
        flops=flops,
        hbm_bytes=hbm_bytes_of(module),
        uncounted=(*silent_kernels, *module.unknown_loops),
    )


def mesh_of(cfg: PretrainConfig, topology: Topology) -> Mesh:
    """The config's mesh over the devices of a topology.

    Raises:
        ValueError: the axes do not multiply to the number of devices.
    """
    mesh_cfg = cfg.mesh
    if mesh_cfg.slices is None:
        mesh_cfg = dataclasses.replace(mesh_cfg, slices=topology.slices)
    return make_mesh(mesh_cfg, devices_of(topology))


def _attention_shares(cfg: ModelConfig) -> list[float]:
    """The share of the layers that each kind of attention has, in the encoder's order."""
    kinds = collections.Counter(cfg.reach(n) for n in range(cfg.num_layers))
    return [layers / cfg.num_layers for layers in kinds.values()]


def _with_compiled(memory: MemoryByKind, compiled: Any) -> MemoryByKind:
    stats = compiled.memory_analysis()
    return dataclasses.replace(
        memory,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        total=stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes,
    )


def vocabulary_of(cfg: PretrainConfig) -> MaskVocabulary:
    """The vocabulary of the dataset's tokenizer, or a synthetic one without a dataset.

    Raises:
        ValueError, OSError: there is no such dataset, its vocabulary is not the model's, or
            its tokenizer lays out no pairs that a run could train on.
    """
    if not cfg.data.datasets:
        return synthetic_vocabulary(cfg.model.vocab_size)
    dataset = open_dataset(cfg.data.datasets[0])
    check_vocabulary(cfg, dataset.tokenizer, dataset.directory)
    check_pairs(dataset.tokenizer.pair, cfg.data)
    return dataset.tokenizer.mask_vocabulary


def needed_bytes(message: str) -> int | None:
    """The bytes in the TPU compiler's message that a step needs too much memory.

    Returns:
        `None` where the message is about something else.
    """
    if not message.startswith("RESOURCE_EXHAUSTED"):
        return None
    match = re.search(
        r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message
    ) or re.search(r"total memory required[^(]*\(([\d.]+)([KMGT]?)\)", message)
    return None if match is None else int(float(match[1]) * _UNITS[match[2]])
