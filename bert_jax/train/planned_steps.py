"""How many updates fit into some minutes, by the measured speed of this machine."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from bert_jax.batch import PretrainBatch
from bert_jax.config import LoopConfig, PretrainConfig
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.prepared.corpus import open_corpus
from bert_jax.runtime.agreement import on_first_host
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.held_out import num_batches, open_evaluator
from bert_jax.train.memory import check_memory
from bert_jax.train.mesh import make_mesh
from bert_jax.train.placement import row_parts, to_devices
from bert_jax.train.program import pretrain_program
from bert_jax.train.runs.checkpoint_mirror import mirror_of
from bert_jax.train.runs.run import load_run, load_run_config
from bert_jax.train.runs.run_settings import agree_on_run
from bert_jax.train.train_rows import open_train_rows

# Steps and seconds that the measurement takes at least. The longer of the two counts.
_STEPS, _SECS = 5, 5.0
# Checkpoints, log lines and what a short measurement does not show.
_RESERVE = 0.03


class PlannedSteps(NamedTuple):
    """The steps that fit, and what was measured to find them."""

    num_steps: int
    step_secs: float
    """Seconds of one update, compiled."""
    overhead_secs: float
    """Seconds beside the updates: compiling, and all evaluations."""


@our_settings()
def planned_steps(cfg: PretrainConfig, minutes: float) -> PlannedSteps:
    """Measures some updates and one evaluation, and plans a run of this length.

    Nothing is written. All processes of a job must call it; they get the same plan.

    Args:
        cfg: settings of a run of one phase; its `num_steps` is not used.
        minutes: wall time of the run, its compilation and its evaluations included.

    Raises:
        ValueError: dataset, model and mesh do not fit together, or the time is too short
            for ten updates.
    """
    cfg = dataclasses.replace(cfg, next_phases=())
    corpus = open_corpus(cfg.data)
    mesh = make_mesh(cfg.mesh)
    program = pretrain_program(cfg, mesh, corpus.tokenizer.mask_vocabulary)
    check_memory(
        mesh,
        cfg.model,
        program.state,
        batch_size=cfg.batch_size,
        length=cfg.data.sequence_length,
        micro_batches=cfg.micro_batches,
    )
    batches = train_batches(
        open_train_rows(corpus, cfg, 0).rows,
        batch_size=cfg.batch_size,
        first_step=0,
        num_steps=1_000_000,
        **row_parts(mesh)._asdict(),
    )
    began = time.perf_counter()
    state = program.make_state()
    first = next(batches)
    state, _ = program.step(state, to_devices(mesh, first))
    jax.block_until_ready(state)
    compile_secs = time.perf_counter() - began

    def update(batch: PretrainBatch) -> None:
        nonlocal state
        state, _ = program.step(state, to_devices(mesh, batch))
        jax.block_until_ready(state)

    step_secs, more_secs = _timed(update, batches, first.input_ids.shape)
    compile_secs += more_secs
    batches.close()

    evaluator = open_evaluator(dataclasses.replace(cfg, eval_batches=1), corpus, mesh)
    began = time.perf_counter()
    evaluator(state.params)
    compile_secs += time.perf_counter() - began
    began = time.perf_counter()
    evaluator(state.params)
    # It has judged one batch of each dataset.
    judge_secs = (time.perf_counter() - began) / len(evaluator.rows)
    judge_secs *= num_batches(cfg, evaluator.rows.values())
    plan = _fitting(cfg, minutes, step_secs, compile_secs, judge_secs)
    return PlannedSteps(**on_first_host("the planned steps", plan._asdict))


def with_planned_steps(
    cfg: PretrainConfig, minutes: float, run: pathlib.Path
) -> PretrainConfig:
    """The settings with the planned number of steps, or with that of the run so far.

    Args:
        cfg: settings of a run of one phase.
        minutes: as for `planned_steps`.
        run: run directory; if it or its mirror holds a run, that run's number of steps is
            taken.

    Raises:
        ValueError: as for `planned_steps`, or the run has several phases.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes {minutes:g} must be greater than 0, and finite.")
    if cfg.next_phases:
        raise ValueError(
            f"--minutes {minutes:g} plans a run of one phase, and the config has "
            f"{1 + len(cfg.next_phases)}. Add --first-phase-only."
        )
    planned = on_first_host(
        f"a look for a run in {run}", lambda: _planned_before(run, cfg.loop)
    )
    if planned is not None:
        print(f"{run} was planned for {planned:,} steps", flush=True)
        return dataclasses.replace(cfg, num_steps=planned)
    agree_on_run(run, cfg)  # before the devices work together
    plan = planned_steps(cfg, minutes)
    print(
        f"{plan.num_steps:,} steps fit into {minutes:g} minutes: a step takes "
        f"{plan.step_secs:.3g} s, compiling and evaluating {plan.overhead_secs:.0f} s",
        flush=True,
    )
    return dataclasses.replace(cfg, num_steps=plan.num_steps)


def _planned_before(run: pathlib.Path, loop: LoopConfig) -> int | None:
    """The steps of the run that goes on here; `None` if it is a new one."""
    mirror = mirror_of(run, loop)
    for home in (run, *(() if mirror is None else (mirror.small_files(),))):
        if (home / "run.json").exists():
            load_run(home, kind="pretrain")
            before = load_run_config(home)
            assert isinstance(before, PretrainConfig)
            return before.num_steps
    return None


def _timed(
    update: Callable[[PretrainBatch], None],
    batches: Iterator[PretrainBatch],
    compiled: tuple[int, ...],
) -> tuple[float, float]:
    """Seconds of an update, and seconds of those that compiled for rows of a new length.

    Args:
        update: makes an update with a batch, and returns when it is done.
        batches: with layout "buckets", of several lengths.
        compiled: shape of a batch that there is a program for.
    """
    shapes, done, secs, compile_secs = {compiled}, 0, 0.0, 0.0
    while True:
        began = time.perf_counter()
        batch = next(batches)
        update(batch)
        took = time.perf_counter() - began
        if batch.input_ids.shape not in shapes:
            shapes.add(batch.input_ids.shape)
            compile_secs += took
            continue
        done, secs = done + 1, secs + took
        if on_first_host(
            "the time of some steps", functools.partial(_enough, done, secs)
        ):
            return secs / done, compile_secs


def _enough(done: int, secs: float) -> bool:
    return done >= _STEPS and secs >= _SECS


def _fitting(
    cfg: PretrainConfig,
    minutes: float,
    step_secs: float,
    compile_secs: float,
    judge_secs: float,
) -> PlannedSteps:
    room = 60.0 * minutes * (1.0 - _RESERVE) - compile_secs - 2.0 * judge_secs
    every = cfg.loop.eval_every_steps
    each = step_secs + (judge_secs / every if every else 0.0)
    steps = int(room / each)
    if steps < 10:
        least = (10 * each + compile_secs + 2.0 * judge_secs) / (1.0 - _RESERVE) / 60.0
        raise ValueError(
            f"--minutes {minutes:g} leaves time for {max(steps, 0)} steps of "
            f"{step_secs:.3g} s beside {compile_secs:.0f} s to compile and "
            f"{2.0 * judge_secs:.0f} s to evaluate before and after; give "
            f"{math.ceil(10.0 * least) / 10.0:g} or "
            "more, fewer --eval-batches, or a smaller model."
        )
    judged = 2 + (steps // every if every else 0)
    return PlannedSteps(steps, step_secs, compile_secs + judged * judge_secs)
