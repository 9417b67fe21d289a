"""The true train step of one phase, compiled for a machine, and what it takes there."""

import dataclasses
import math
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from bert_jax.batch import MaskVocabulary, SpecialIds
from bert_jax.config import PretrainConfig
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.topology.collectives import Collective, collectives_of
from bert_jax.topology.devices import Topology, devices_of
from bert_jax.topology.hlo import Module, parse_hlo
from bert_jax.topology.program_text import program_text
from bert_jax.topology.traffic import cycles_of, flops_of, hbm_bytes_of
from bert_jax.train.held_out import check_vocabulary
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import Program, pretrain_program

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class MemoryByKind:
    """Bytes on one device at the most crowded point of a step."""

    parameters: int
    optimizer: int
    """Moments, counters and the root of the random streams."""
    batch: int
    temporaries: int | None
    """Activations kept for the backward pass, gradients and scratch; `None` where the
    compiler gave only the total."""
    code: int | None
    total: int
    """By the compiler; with the padding of layouts that the kinds leave out."""
    limit: int | None
    """What the compiler may use; `None` for a CPU."""

    @property
    def padding(self) -> int | None:
        """The total less its kinds: padding of layouts, and results that are no state."""
        if self.temporaries is None or self.code is None:
            return None
        kinds = self.parameters + self.optimizer + self.batch
        return self.total - kinds - self.temporaries - self.code


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says about one phase on one machine; a chip is one device."""

    cfg: PretrainConfig
    """Of the one phase."""
    topology: Topology
    mesh: Mapping[str, int]
    """Devices along each axis, outermost first."""
    memory: MemoryByKind
    fits: bool
    collectives: tuple[Collective, ...]
    """None where the step does not fit: then there is no program."""
    flops: float | None
    """Of matrix products and kernels, of one device in one step, recomputation included."""
    hbm_bytes: float | None
    """Read from and written to a device's main memory in one step."""
    cycles: float | None
    """The compiler's own, of everything but collectives; `None`: it says none (CPU)."""
    uncounted: tuple[str, ...]
    """Kernels that do not state their work, which neither figure has then; and loops of
    unknown length, of which the figures have one round."""
    compile_secs: float
    program: Program = dataclasses.field(repr=False, compare=False)
    """Abstract state and batch; what was compiled."""


def compile_step(
    cfg: PretrainConfig,
    topology: Topology,
    *,
    vocabulary: MaskVocabulary | None = None,
    schedule: optax.Schedule | None = None,
) -> CompiledStep:
    """Compiles the train step of one phase.

    A step that does not fit is a result, with the compiler's number.

    Args:
        cfg: of one phase, as `PretrainConfig.phases` gives them.
        vocabulary: of the run's tokenizer; a made-up one costs the same, but its ids are
            constants of the program, so a compile cache would not serve the run.
        schedule: of the whole run, likewise; that of the phase alone by default.

    Raises:
        ValueError: the topology is not to be had, or mesh, batch and model do not divide.
    """
    if cfg.next_phases:
        raise ValueError(
            f"compile_step takes one phase, not {1 + len(cfg.next_phases)}; give it "
            "those of PretrainConfig.phases."
        )
    mesh_cfg = cfg.mesh
    if mesh_cfg.slices is None:
        mesh_cfg = dataclasses.replace(mesh_cfg, slices=topology.slices)
    mesh = make_mesh(mesh_cfg, devices_of(topology))
    program = pretrain_program(
        cfg, mesh, vocabulary or made_up_vocabulary(cfg.model.vocab_size), schedule
    )
    start = time.monotonic()
    lowered = program.step.lower(program.state, program.batch)
    chip = topology.chip
    limit = None if chip is None else chip.device_usable_bytes
    sizes = {
        "parameters": bytes_per_device(program.state.params),
        "optimizer": bytes_per_device(
            (program.state.step, program.state.opt_state, program.state.key)
        ),
        "batch": bytes_per_device(program.batch),
    }
    shape = dict(mesh.shape)
    try:
        with warnings.catch_warnings():
            # What compiles for a TPU cannot load it, so a program that the cache has is
            # compiled again; the machine itself can.
            warnings.filterwarnings(
                "ignore", "Error reading persistent compilation cache entry"
            )
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return CompiledStep(
            cfg=cfg,
            topology=topology,
            mesh=shape,
            memory=MemoryByKind(
                **sizes, temporaries=None, code=None, total=needed, limit=limit
            ),
            fits=False,
            collectives=(),
            flops=None,
            hbm_bytes=None,
            cycles=None,
            uncounted=(),
            compile_secs=time.monotonic() - start,
            program=program,
        )
    secs = time.monotonic() - start
    memory = _memory(compiled, sizes, limit)
    module: Module = parse_hlo(program_text(lowered, compiled))
    flops, uncounted = flops_of(module)
    return CompiledStep(
        cfg=cfg,
        topology=topology,
        mesh=shape,
        memory=memory,
        fits=limit is None or memory.total <= limit,
        collectives=collectives_of(module, shape),
        flops=flops,
        hbm_bytes=hbm_bytes_of(module),
        cycles=cycles_of(module),
        uncounted=(*uncounted, *module.unknown_loops),
        compile_secs=secs,
        program=program,
    )


def _memory(compiled: Any, sizes: dict[str, int], limit: int | None) -> MemoryByKind:
    stats = compiled.memory_analysis()
    total = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )
    return MemoryByKind(
        **sizes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        total=total,
        limit=limit,
    )


def vocabulary_of(cfg: PretrainConfig) -> MaskVocabulary:
    """That of the dataset's tokenizer; without a dataset a made-up one.

    Raises:
        ValueError, OSError: there is no such dataset, or the model has another vocabulary.
    """
    if cfg.data.dataset is None:
        return made_up_vocabulary(cfg.model.vocab_size)
    dataset = open_dataset(cfg.data.dataset)
    check_vocabulary(cfg.model, dataset.tokenizer, dataset.directory)
    return dataset.tokenizer.mask_vocabulary


def made_up_vocabulary(size: int) -> MaskVocabulary:
    """As many pieces, the first five special, each a word of its own."""
    special = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    return MaskVocabulary(special, size, np.arange(size) > special.mask)


def bytes_per_device(tree: Any) -> int:
    """Of abstract arrays with their shardings, without the padding of layouts."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def needed_bytes(message: str) -> int | None:
    """What the TPU compiler says a step needs, where it refuses for lack of memory."""
    if not message.startswith("RESOURCE_EXHAUSTED"):
        return None
    match = re.search(
        r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message
    ) or re.search(r"total memory required[^(]*\(([\d.]+)([KMGT]?)\)", message)
    return None if match is None else int(float(match[1]) * _UNITS[match[2]])
