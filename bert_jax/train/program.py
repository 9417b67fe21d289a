"""Builds the program of a pretraining phase, for running, compiling ahead and measuring."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from bert_jax.batch import MaskVocabulary, PretrainBatch, SpecialIds
from bert_jax.config import ComputeConfig, PretrainConfig
from bert_jax.model import pretraining
from bert_jax.model.products_fp8 import fp8_compiler_options
from bert_jax.train import sharding
from bert_jax.train.diagnosis import diagnose, in_a_row
from bert_jax.train.freezing import stop_frozen
from bert_jax.train.objectives import Objective, pretrain_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.schedules import join_phases
from bert_jax.train.step import (
    TrainState,
    abstract_state,
    compile_step,
    init_state,
)


class Program(NamedTuple):
    """The program of one phase. All phases of a run have the same kind of state."""

    step: Any
    """A `Step` under `jax.jit`: `step.lower(state, batch).compile()` compiles it ahead."""
    state: TrainState
    """Abstract state: shapes, types and placements."""
    batch: PretrainBatch
    """Abstract global batch. With buckets, it has rows of the longest bucket."""
    make_state: Callable[[], TrainState]
    """Makes the state of step 0, placed as `state` says."""
    diagnose: Callable[[TrainState, PretrainBatch], str]
    """diagnose(state, batch) says where the step of a global batch goes wrong."""


def phases_schedule(cfg: PretrainConfig) -> optax.Schedule:
    """Learning rate over all phases of a run."""
    steps = zip(cfg.phases, cfg.scheduled_steps, strict=True)
    return join_phases([(phase.optimizer, n) for phase, n in steps if n])


def pretrain_program(
    cfg: PretrainConfig,
    mesh: Mesh,
    vocabulary: MaskVocabulary,
    whole: PretrainConfig | None = None,
) -> Program:
    """Builds the step of one phase; nothing is compiled yet.

    Args:
        cfg: settings of the phase, as `PretrainConfig.phases` gives them.
        mesh: devices that the program runs on.
        vocabulary: vocabulary of the tokenizer.
        whole: settings of the whole run, whose updates the schedules of the learning rate
            and the masking rate go over. Default: this phase is the whole run.

    Raises:
        ValueError: batch, model and mesh do not fit together.
    """
    sharding.check_batch_size(mesh, cfg.batch_size, cfg.micro_batches)
    whole = whole or cfg
    optimizer = make_optimizer(cfg.optimizer, phases_schedule(whole))

    def objective_of(compute: ComputeConfig) -> Objective:
        objective = pretrain_objective(
            cfg.model,
            compute,
            cfg.dropout,
            cfg.masking,
            vocabulary,
            num_steps=whole.all_steps,
            has_labels=cfg.data.has_labels,
        )
        return stop_frozen(cfg.optimizer, objective)

    def make_state() -> TrainState:
        init = functools.partial(pretraining.init_params, cfg.model)
        return init_state(init, optimizer, cfg.seed)

    shard_update = cfg.mesh.shard_update
    state = abstract_state(make_state, mesh, shard_update=shard_update)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return Program(
        step=compile_step(
            objective_of(cfg.compute),
            optimizer,
            mesh,
            state,
            micro_batches=cfg.micro_batches,
            shard_update=shard_update,
            compiler_options=(
                fp8_compiler_options(mesh.devices.flat[0]) if cfg.compute.fp8 else None
            ),
        ),
        state=state,
        batch=abstract_batch(cfg, mesh),
        make_state=jax.jit(make_state, out_shardings=places),
        diagnose=functools.partial(
            diagnose,
            objective_of(in_a_row(cfg.compute)),
            mesh,
            micro_batches=cfg.micro_batches,
        ),
    )


def abstract_batch(cfg: PretrainConfig, mesh: Mesh) -> PretrainBatch:
    """Shapes, types and placements of a global batch of `cfg`."""
    tokens = (cfg.batch_size, cfg.data.sequence_length)
    pairs = (cfg.batch_size, cfg.data.pairs_per_row)
    shapes = PretrainBatch(
        input_ids=tokens,
        segment_ids=tokens,
        sequence_ids=tokens,
        position_ids=tokens,
        cls_positions=pairs,
        nsp_labels=pairs,
        nsp_weights=pairs,
    )
    place = sharding.batch_sharding(mesh)

    def dtype(name: str) -> Any:
        return np.float32 if name == "nsp_weights" else np.int32

    return PretrainBatch(
        **{
            name: jax.ShapeDtypeStruct(shape, dtype(name), sharding=place)
            for name, shape in shapes._asdict().items()
        }
    )


def synthetic_vocabulary(size: int) -> MaskVocabulary:
    """A vocabulary of `size` pieces, for compiling where no tokenizer is at hand.

    The shapes of the program do not depend on which pieces are special or begin a word.
    """
    special = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    return MaskVocabulary(special, size, np.arange(size) > special.mask)
