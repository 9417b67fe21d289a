"""The loop around the step that pretraining and fine-tuning share.

It draws batches, logs, evaluates, saves, and stops cleanly when asked to. What a batch
is, how it is judged and what a line of progress says come from the caller.
"""

import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.config import LoopConfig
from bert_jax.data.batches.loader import InputClock
from bert_jax.limits import check_ids
from bert_jax.train.checkpoint import Checkpoints
from bert_jax.train.metrics import MetricsLog, Window, duration
from bert_jax.train.placement import to_devices
from bert_jax.train.run import load_run
from bert_jax.train.step import TrainState

Batches = Callable[[int], Iterator[Any]]
Step = Callable[[TrainState, Any], tuple[TrainState, Any]]
Evaluate = Callable[[Any], dict[str, float]]


class InterruptedRunError(Exception):
    """A signal ended the run after a checkpoint; the same command goes on."""


def run_loop(
    *,
    run: pathlib.Path,
    cfg: LoopConfig,
    mesh: Mesh,
    step: Step,
    make_state: Callable[[], TrainState],
    abstract: TrainState,
    batches: Batches,
    num_steps: int,
    evaluate: Evaluate,
    per_step: dict[str, float],
    show: Callable[[dict[str, float]], str],
    learning_rate: Callable[[int], Any],
) -> tuple[TrainState, dict[str, float], float]:
    """Trains to `num_steps`, from the newest checkpoint if there is one.

    Args:
        run: run directory, already begun; its run.json holds the limits that every
            batch must keep.
        step: the compiled step.
        make_state: builds the placed state of step 0.
        abstract: shapes and placements to restore onto.
        batches: yields this host's batches from a given step on.
        evaluate: judges parameters; called as `cfg` says and at the end.
        per_step: name of a rate -> units a step, e.g. sequences; logged per second.
        show: turns a line of metrics into words.
        learning_rate: of an update, by number from 0.

    Returns:
        The last state, its evaluation, and the seconds of training so far, all
        sessions together.

    Raises:
        ValueError: an id of a batch has no row in its table; nothing of it was saved.
        InterruptedRunError: SIGINT or SIGTERM came; a checkpoint was written.
        NotFiniteError: the loss left the finite numbers; nothing of it was saved.
    """
    info = load_run(run)
    num_labels = None if info.labels is None else len(info.labels)
    with (
        Checkpoints(run, info.identity, keep=cfg.keep_checkpoints) as checkpoints,
        _StopRequest() as stop,
    ):
        if checkpoints.latest_step() is None:
            state = make_state()
        else:
            state = checkpoints.restore(abstract)
            print(f"going on from step {int(state.step):,}", flush=True)
        first = done = int(state.step)
        log = MetricsLog(run, first)
        elapsed = log.elapsed_before
        window, inputs = Window(), InputClock(batches(first))
        evaluation: dict[str, float] = {}
        compiled: set[tuple[int, ...]] = set()

        def close_window() -> None:
            nonlocal elapsed
            if not len(window):
                return
            means, seconds, count = window.close(done)
            elapsed += seconds
            rates = {n: units * count / seconds for n, units in per_step.items()}
            line = {
                **means,
                **rates,
                "input_wait_share": inputs.take() / seconds,
                "learning_rate": float(learning_rate(done - 1)),
                "elapsed_secs": elapsed,
            }
            log.write("train", done, line)
            left = duration((num_steps - done) * seconds / count)
            print(
                f"step {done:>7,}/{num_steps:,}  {show(line)}  {left} left", flush=True
            )

        def restart_clocks() -> None:
            window.restart_clock()
            inputs.take()

        def judge() -> None:
            nonlocal evaluation
            evaluation = evaluate(state.params)
            log.write("eval", done, evaluation)
            print(f"held out at step {done:,}:  {show(evaluation)}", flush=True)
            restart_clocks()

        try:
            for batch in inputs:
                if done >= num_steps or stop.requested:
                    break
                check_ids(info.model, batch, num_labels=num_labels)
                is_new = batch.input_ids.shape not in compiled
                if is_new:
                    jax.block_until_ready(state.params)
                started = time.perf_counter()
                state, metrics = step(state, to_devices(mesh, batch))
                window.add(metrics)
                done += 1
                if is_new:
                    # Compilation is no measure of speed.
                    compiled.add(batch.input_ids.shape)
                    jax.block_until_ready(state.params)
                    window.leave_out(time.perf_counter() - started)
                if done == first + 1:
                    restart_clocks()
                if done % cfg.log_every_steps == 0 or done == num_steps:
                    close_window()
                if done % cfg.checkpoint_every_steps == 0 and done < num_steps:
                    close_window()
                    checkpoints.save(state)
                if (
                    cfg.eval_every_steps
                    and done % cfg.eval_every_steps == 0
                    and done < num_steps
                ):
                    close_window()
                    judge()
            inputs.close()  # what follows may have its memory and cores
            close_window()
            checkpoints.save(state)
            checkpoints.wait()
            if done < num_steps:
                raise InterruptedRunError(
                    f"stopped at step {done:,} of {num_steps:,}; the checkpoint is in "
                    f"{run}. Start the same command again to go on."
                )
            judge()
        finally:
            inputs.close()
            log.close()
        return state, evaluation, elapsed


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
