"""The loop around the step that pretraining and fine-tuning share.

It draws batches, logs, evaluates, saves, and stops cleanly when asked to. What a batch
is, how it is judged and what a line of progress says come from the caller.
"""

import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bert_jax.config import LoopConfig
from bert_jax.data.batches.loader import InputClock
from bert_jax.limits import check_ids
from bert_jax.runtime.agreement import any_host
from bert_jax.train.checkpoint import Checkpoints
from bert_jax.train.metrics import MetricsLog, Window, duration
from bert_jax.train.placement import to_devices
from bert_jax.train.run import RunInfo, load_run
from bert_jax.train.step import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Any]]


class InterruptedRunError(Exception):
    """A signal ended the run after a checkpoint; the same command goes on."""


class Stage(NamedTuple):
    """Steps of one kind: all of a run, or one of its phases."""

    num_steps: int
    step: Step
    """The compiled step."""
    batches: Callable[[int], Iterator[Any]]
    """This host's batches from a step on, by its number within the stage."""
    evaluate: Callable[[Any], dict[str, float]]
    """Judges parameters; called as the LoopConfig says, and at the end of the stage."""
    per_step: dict[str, float]
    """Name of a rate -> units a step, e.g. sequences; logged per second."""


def run_loop(
    *,
    run: pathlib.Path,
    cfg: LoopConfig,
    mesh: Mesh,
    stages: Sequence[Stage],
    make_state: Callable[[], TrainState],
    abstract: TrainState,
    show: Callable[[dict[str, float]], str],
    learning_rate: Callable[[int], Any],
) -> tuple[TrainState, dict[str, float], float]:
    """Trains through all stages, from the newest checkpoint if there is one.

    Args:
        run: run directory, already begun; its run.json holds the limits that every
            batch must keep.
        make_state: builds the placed state of step 0.
        abstract: shapes and placements to restore onto.
        show: turns a line of metrics into words.
        learning_rate: of an update, by its number from 0 in the run.

    Returns:
        The last state, its evaluation, and the seconds of training so far, all
        sessions together.

    Raises:
        ValueError: an id of a batch has no row in its table; nothing of it was saved.
        InterruptedRunError: SIGINT or SIGTERM came, to any host; a checkpoint was
            written.
        NotFiniteError: the loss left the finite numbers; nothing of it was saved.
    """
    info = load_run(run)
    with (
        Checkpoints(run, info.identity, keep=cfg.keep_checkpoints) as checkpoints,
        _StopRequest() as stop,
    ):
        if checkpoints.latest_step() is None:
            state = make_state()
        else:
            state = checkpoints.restore(abstract)
            print(f"going on from step {int(state.step):,}", flush=True)
        total = sum(stage.num_steps for stage in stages)
        loop = _Loop(run, cfg, mesh, checkpoints, stop, state, total)
        loop.info, loop.show, loop.learning_rate = info, show, learning_rate
        try:
            start = 0
            for stage in stages:
                # The last one is judged again: its evaluation is that of the run.
                if loop.done < start + stage.num_steps or stage is stages[-1]:
                    loop.go_through(stage, start)
                start += stage.num_steps
        finally:
            loop.log.close()
        return loop.state, loop.evaluation, loop.elapsed


class _Loop:
    """What goes on from step to step, and from stage to stage."""

    info: RunInfo
    show: Callable[[dict[str, float]], str]
    learning_rate: Callable[[int], Any]

    def __init__(
        self,
        run: pathlib.Path,
        cfg: LoopConfig,
        mesh: Mesh,
        checkpoints: Checkpoints,
        stop: "_StopRequest",
        state: TrainState,
        total: int,
    ) -> None:
        self.run, self.cfg, self.mesh = run, cfg, mesh
        self.checkpoints, self.stop = checkpoints, stop
        self.state, self.total = state, total
        self.first = self.done = int(state.step)
        self.log = MetricsLog(run, self.first)
        self.elapsed = self.log.elapsed_before
        self.window = Window()
        self.evaluation: dict[str, float] = {}
        self.compiled: set[tuple[int, ...]] = set()

    def go_through(self, stage: Stage, start: int) -> None:
        """Trains to the end of a stage that begins with update `start`."""
        cfg, end = self.cfg, start + stage.num_steps
        inputs = InputClock(stage.batches(self.done - start))
        self.compiled.clear()
        try:
            for batch in inputs:
                if self.done >= end or self._must_stop():
                    break
                self._train(stage, batch)
                if self.done % cfg.log_every_steps == 0 or self.done == end:
                    self._close_window(stage, inputs)
                if self.done < end and self.done % cfg.checkpoint_every_steps == 0:
                    self._close_window(stage, inputs)
                    self.checkpoints.save(self.state)
                if (
                    cfg.eval_every_steps
                    and self.done % cfg.eval_every_steps == 0
                    and self.done < end
                ):
                    self._close_window(stage, inputs)
                    self._judge(stage)
                    inputs.take()
        finally:
            inputs.close()  # what follows may have its memory and cores
        self._close_window(stage, inputs)
        self.checkpoints.save(self.state)
        self.checkpoints.wait()
        if self.done < end:
            raise InterruptedRunError(
                f"stopped at step {self.done:,} of {self.total:,}; the checkpoint is "
                f"in {self.run}. Start the same command again to go on."
            )
        self._judge(stage)

    def _must_stop(self) -> bool:
        """Whether any host was asked to; all hosts say the same."""
        if jax.process_count() == 1:
            return self.stop.requested
        if self.done % self.cfg.stop_check_every_steps:
            return False
        return any_host(self.stop.requested)

    def _train(self, stage: Stage, batch: Any) -> None:
        labels = self.info.labels
        num_labels = None if labels is None else len(labels)
        check_ids(self.info.model, batch, num_labels=num_labels)
        is_new = batch.input_ids.shape not in self.compiled
        if is_new:
            jax.block_until_ready(self.state.params)
        started = time.perf_counter()
        self.state, metrics = stage.step(self.state, to_devices(self.mesh, batch))
        self.window.add(metrics)
        self.done += 1
        if is_new:
            # Compilation is no measure of speed.
            self.compiled.add(batch.input_ids.shape)
            jax.block_until_ready(self.state.params)
            self.window.leave_out(time.perf_counter() - started)

    def _close_window(self, stage: Stage, inputs: InputClock) -> None:
        if not len(self.window):
            return
        means, seconds, count = self.window.close(self.done)
        self.elapsed += seconds
        line = {
            **means,
            **{n: units * count / seconds for n, units in stage.per_step.items()},
            "input_wait_share": inputs.take() / seconds,
            "learning_rate": float(self.learning_rate(self.done - 1)),
            "elapsed_secs": self.elapsed,
        }
        self.log.write("train", self.done, line)
        left = duration((self.total - self.done) * seconds / count)
        print(
            f"step {self.done:>7,}/{self.total:,}  {self.show(line)}  {left} left",
            flush=True,
        )

    def _judge(self, stage: Stage) -> None:
        self.evaluation = stage.evaluate(self.state.params)
        self.log.write("eval", self.done, self.evaluation)
        print(
            f"held out at step {self.done:,}:  {self.show(self.evaluation)}", flush=True
        )
        self.window.restart_clock()


class _StopRequest:
    """Turns the first SIGINT or SIGTERM into a request; a second one acts at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        # Only the main thread may set handlers; elsewhere the default stays.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print(
            f"{signal.Signals(number).name}: stopping after this step; a second signal "
            "stops at once",
            flush=True,
        )
