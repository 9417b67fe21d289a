"""Several fine-tuning runs trained at once: one step, mapped over their states by vmap.

The runs have one shape in every step and differ in seed and learning rate. Each gets the
updates that it would get alone, up to the rounding of float32.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import FinetuneConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.limits import check_ids
from bert_jax.model.isolation import prove_for_lengths
from bert_jax.runtime import process
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.averaging import averaged
from bert_jax.train.finetune import Judge, begin_run, finish_run
from bert_jax.train.initial import start_encoder
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.memory import device_memory
from bert_jax.train.mesh import one_device
from bert_jax.train.monitoring.metrics import (
    MetricsLog,
    NotFiniteError,
    Window,
    duration,
)
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import BEST, Checkpoints
from bert_jax.train.runs.run import load_run
from bert_jax.train.runs.run_lock import only_trainer
from bert_jax.train.runs.run_start import save_origin
from bert_jax.train.step import TrainState, is_finite, train_step
from bert_jax.train.stop_request import InterruptedRunError, StopRequest
from bert_jax.train.task_data import TaskData
from bert_jax.train.tuning import make_tuning

_MEMORY_SHARE = 0.8  # of the device; the rest is for evaluation and fragments


class Part(NamedTuple):
    """One of the runs."""

    cfg: FinetuneConfig
    run: pathlib.Path
    data: TaskData

    @property
    def shape(self) -> tuple[Any, ...]:
        """Runs of one shape can be trained at once."""
        lengths = tuple(tuple(epoch.lengths.tolist()) for epoch in self.data.epochs)
        group = self.data.train_rows.input_ids.shape[1:-1]
        return self.cfg.batch_size, self.data.outputs, group, lengths


def why_not(cfg: FinetuneConfig) -> str | None:
    """Why runs with these settings cannot be trained at once; `None` if they can."""
    if process.this().count > 1:
        return "the processes of a job train one run together"
    if cfg.loop.eval_every_steps != 0:
        return (
            f"LoopConfig.eval_every_steps={cfg.loop.eval_every_steps} judges runs on the "
            "way, and runs at once are judged at their end; --loop.eval-every-steps 0 does "
            "that"
        )
    for name, default in (
        *(("profile_at_step", None), ("profiler_port", None), ("wandb_project", None)),
        *(("spike_deviations", None), ("verify_every", 0)),
    ):
        value = getattr(cfg.loop, name)
        if value != default:
            return f"LoopConfig.{name}={value!r} is for one run"
    if any(getattr(cfg.mesh, n) > 1 for n in sharding.MESH_AXIS_NAMES if n != "slice"):
        return "--mesh splits a run over devices, and runs at once share one device"
    return None


class AtOnce:
    """Runs of one shape, begun in their directories, on one device."""

    def __init__(self, parts: Sequence[Part], tokenizer: Tokenizer) -> None:
        self.parts = parts
        self.cfg, _, self.data = parts[0]
        self.mesh = one_device()
        assert self.cfg.checkpoint is not None
        self.model = load_run(self.cfg.checkpoint).model
        self.infos = [
            begin_run(part.cfg, part.run, part.data, self.model, tokenizer, self.mesh)
            for part in parts
        ]
        self.tunings = [
            make_tuning(
                part.cfg,
                self.model,
                part.data.task,
                len(part.data.outputs),
                part.data.num_steps,
            )
            for part in parts
        ]
        self.schedules = [tuning.schedule for tuning in self.tunings]

    def step(self, number: jax.Array, state: TrainState, batch: Any) -> Any:
        """The next state and the metrics of the run `number`, a pure function."""

        def rate(step: jax.typing.ArrayLike) -> jax.Array:
            return jnp.stack([schedule(step) for schedule in self.schedules])[number]

        tuning = self.tunings[0]
        optimizer = make_optimizer(tuning.optimizer_cfg, rate)
        with sharding.on_mesh(self.mesh):
            return train_step(tuning.objective, optimizer, state, batch)

    def first_states(self) -> TrainState:
        """The states of step 0 of all runs, with a new first axis."""
        print(self.tunings[0].describe(), flush=True)
        seeds = jnp.array([part.cfg.seed for part in self.parts], jnp.uint32)
        tuning = self.tunings[0]
        if self.cfg.from_scratch:
            print("encoder: fresh random weights (--from-scratch)", flush=True)
            return jax.jit(jax.vmap(tuning.fresh_state))(seeds)
        assert self.cfg.checkpoint is not None
        parts = jax.eval_shape(tuning.init_params, jax.random.key(0)).keys()
        encoder = start_encoder(
            *(self.cfg.checkpoint, self.mesh, parts, self.cfg.checkpoint_step),
            self.infos[0],
        )
        fresh = functools.partial(tuning.fresh_state, without=encoder.params.keys())
        states = jax.jit(jax.vmap(fresh))(seeds)
        print(f"encoder: {encoder.describe()}", flush=True)
        for part in self.parts:
            save_origin(part.run, encoder.origin)
        num_runs = len(self.parts)
        taken = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_runs, *leaf.shape)), encoder.params
        )
        return dataclasses.replace(states, params={**states.params, **taken})

    def batch(self, step: int) -> Any:
        """The batches of a step, of all runs, with a new first axis."""
        batches = [part.data.batch(step, part.cfg.batch_size) for part in self.parts]
        for batch in batches:
            check_ids(self.model, batch)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def bytes_of_one(self) -> int:
        """Memory of the step of one run on its longest rows, as the compiler counts it."""
        longest = max(
            (epoch.lengths.max(), number, epoch.lengths.argmax())
            for number, epoch in enumerate(self.data.epochs)
        )
        step = longest[1] * self.data.steps_per_epoch + int(longest[2])
        state = jax.eval_shape(lambda: self.tunings[0].fresh_state(0))
        batch = self.data.batch(step, self.cfg.batch_size)
        compiled = jax.jit(self.step, donate_argnums=1).lower(0, state, batch).compile()
        found = compiled.memory_analysis()
        assert found is not None
        return int(
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            + found.temp_size_in_bytes
            - found.alias_size_in_bytes
        )


@our_settings()
def number_that_fits(part: Part, tokenizer: Tokenizer) -> int:
    """How many runs like this one fit the memory of the first device, at least 1.

    The run is begun in its directory. A device that does not tell the size of its memory trains one run after the other.
    """
    limit = device_memory(jax.local_devices()[0])
    if limit is None:
        return 1
    return max(
        1, int(_MEMORY_SHARE * limit) // AtOnce([part], tokenizer).bytes_of_one()
    )


@our_settings()
def finetune_at_once(
    parts: Sequence[Part], tokenizer: Tokenizer, *, keep_weights: bool
) -> list[dict[str, Any] | NotFiniteError]:
    """Trains runs of one shape and finishes their directories.

    Args:
        parts: not begun, or begun and not finished; they start anew.
        keep_weights: whether the runs keep a checkpoint of their last state.

    Returns:
        Of each run its results, or why it has none.

    Raises:
        ValueError, IsolationError: as for `finetune`.
        OSError: a directory vanished, or another process took its lock.
        InterruptedRunError: the process got a signal; these runs must start anew.
    """
    group = AtOnce(parts, tokenizer)
    cfg, data = group.cfg, group.data
    prove_for_lengths(group.model, cfg.compute, cfg.dropout, data.lengths)
    with contextlib.ExitStack() as held:
        locks = [held.enter_context(only_trainer(part.run)) for part in parts]

        def must_stop() -> bool:
            for lock in filter(None, locks):
                lock.check()
            return stop.requested

        began = time.perf_counter()
        with StopRequest() as stop:
            states, failures = _train(group, must_stop)
        elapsed = time.perf_counter() - began
        forward = BatchedLogits(
            *(data.task, group.model, cfg.compute, group.mesh, cfg.batch_size),
            times=len(parts),
        )
        results: list[dict[str, Any] | NotFiniteError] = []
        for number in range(len(parts)):
            if number in failures:
                results.append(failures[number])
                continue
            state = jax.tree.map(lambda leaf, n=number: leaf[n], states)
            results.append(
                _finish(group, number, state, forward, elapsed, keep_weights)
            )
    return results


def _train(
    group: AtOnce, must_stop: Callable[[], bool]
) -> tuple[TrainState, dict[int, NotFiniteError]]:
    """The last states of all runs, and the runs whose numbers became NaN or infinite."""
    cfg, data, num_runs = group.cfg, group.data, len(group.parts)
    numbers = jnp.arange(num_runs)
    step = jax.jit(jax.vmap(group.step), donate_argnums=1)
    states = group.first_states()
    logs = [MetricsLog(part.run, 0, part.cfg.loop) for part in group.parts]
    windows = [Window() for _ in logs]
    failures: dict[int, NotFiniteError] = {}
    pending: list[Any] = []
    started = time.perf_counter()
    try:
        for done in range(1, data.num_steps + 1):
            states, metrics = step(numbers, states, group.batch(done - 1))
            pending.append(metrics)
            if must_stop():
                raise InterruptedRunError(
                    f"stopped at step {done:,} of {data.num_steps:,} of {num_runs} runs at "
                    "once, which have no checkpoints and start anew. Runs that are "
                    "finished are kept: start the same command again to continue."
                )
            if done % cfg.loop.log_every_steps and done < data.num_steps:
                continue
            fetched = jax.device_get(pending)
            pending.clear()
            elapsed = time.perf_counter() - started
            losses = []
            for number in set(range(num_runs)) - failures.keys():
                for line in fetched:
                    of_run = jax.tree.map(lambda leaf, n=number: leaf[n], line)
                    windows[number].add(of_run)
                try:
                    means = windows[number].close(done).means
                except NotFiniteError as failure:
                    failures[number] = failure
                    continue
                losses.append(means["loss"])
                rate = float(group.schedules[number](done - 1))
                logs[number].write(
                    "train",
                    done,
                    {**means, "learning_rate": rate, "elapsed_secs": elapsed},
                )
            left = duration(elapsed / done * (data.num_steps - done))
            said = f"loss {min(losses):.3f} to {max(losses):.3f}" if losses else "lost"
            print(
                f"step {done:>7,}/{data.num_steps:,} of {num_runs} runs at once  {said}  "
                f"{left} left",
                flush=True,
            )
    finally:
        for log in logs:
            log.close()
    return states, failures


def _finish(
    group: AtOnce,
    number: int,
    state: TrainState,
    forward: BatchedLogits,
    elapsed_secs: float,
    keep_weights: bool,
) -> dict[str, Any] | NotFiniteError:
    """Judges the last state of a run and writes its results."""
    cfg, run, data = group.parts[number]
    if not is_finite(state):
        return NotFiniteError(
            f"A weight or a moment is NaN or infinite at step {data.num_steps:,}."
        )
    judge = Judge(data, forward)
    params = group.tunings[number].merged(averaged(state).params)
    evaluation = judge(params)
    log = MetricsLog(run, data.num_steps, cfg.loop)
    log.write("eval", data.num_steps, evaluation)
    log.close()
    if keep_weights:
        identity = group.infos[number].identity
        with Checkpoints(run, identity, place=BEST) as checkpoints:
            checkpoints.save(dataclasses.replace(state, params=params, opt_state=None))
            checkpoints.wait()
    assert judge.judged is not None
    return finish_run(
        cfg,
        run,
        data,
        judge.judged,
        step=data.num_steps,
        evaluation=evaluation,
        elapsed_secs=elapsed_secs,
        at_once=len(group.parts),
    )
