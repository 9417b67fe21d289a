"""The training loop that pretraining and fine-tuning share.

The loop draws batches, trains, logs, evaluates, saves, and stops cleanly when it is asked
to. The caller says what a batch is, how parameters are scored and how progress reads.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.config import LoopConfig
from bert_jax.data.batches.loader import InputClock
from bert_jax.runtime import process
from bert_jax.runtime.start import protect
from bert_jax.train.averaging import averaged
from bert_jax.train.best import BestState, Selection
from bert_jax.train.flops import peak_flops, speeds
from bert_jax.train.monitoring.goodput import Goodput
from bert_jax.train.monitoring.metrics import (
    MetricsLog,
    Window,
    duration,
    peak_memory,
    require_finite,
)
from bert_jax.train.monitoring.pace import Pace
from bert_jax.train.monitoring.profile import Profiler
from bert_jax.train.monitoring.watch import GoBackError
from bert_jax.train.monitoring.watchdog import Watchdog
from bert_jax.train.placement import to_devices
from bert_jax.train.recovery import Recovery
from bert_jax.train.runs.checkpoint import Checkpoints, Identity
from bert_jax.train.runs.checkpoint_mirror import mirror_of
from bert_jax.train.runs.run_lock import RunLock, only_trainer
from bert_jax.train.stage import Stage, Trained
from bert_jax.train.step import TrainState
from bert_jax.train.stop_request import InterruptedRunError, StoppedError, StopRequest
from bert_jax.train.verification import verified


def run_loop(
    *,
    run: pathlib.Path,
    identity: Identity,
    cfg: LoopConfig,
    mesh: Mesh,
    stages: Sequence[Stage],
    make_state: Callable[[], TrainState],
    abstract: TrainState,
    show: Callable[[dict[str, float]], str],
    learning_rate: Callable[[int], Any],
    began: float,
    judge_first: bool = False,
    selection: Selection | None = None,
    locked: Callable[[], None] = lambda: None,
) -> Trained:
    """Trains through all stages, from the newest checkpoint if there is one.

    Args:
        run: run directory, which must exist.
        identity: what the checkpoints are checked against.
        cfg: when to log, evaluate and save.
        mesh: devices to train on.
        stages: the stages in their order.
        make_state: builds the placed state of step 0.
        abstract: shapes and placements of the state, to restore it.
        show: turns a line of metrics into text.
        learning_rate: gives the learning rate of an update of the run, counted from 0.
        began: `time.time()` when this session began.
        judge_first: whether the state of step 0 is evaluated too.
        selection: how the best of the evaluated states is chosen and when training ends
            early. None: the last state counts.
        locked: is called when this process has the lock of the run.

    Raises:
        ValueError: an id of a batch has no row in its table. The batch was not trained on.
        InterruptedRunError: a host was asked to stop. A checkpoint was written.
        CorruptionError: a step that is verified has another result each time.
        NotFiniteError: a score is NaN or infinite, or so are losses, gradients or weights
            after the run went back as often as it may. No such state was saved.
    """
    with (
        only_trainer(run) as lock,
        Checkpoints(
            *(run, identity),
            keep=cfg.keep_checkpoints,
            keep_every=cfg.keep_every_steps,
            mirror=mirror_of(run, cfg),
        ) as checkpoints,
        BestState(run, identity, selection, cfg.eval_every_steps, show)
        if selection
        else contextlib.nullcontext() as best,
        StopRequest(cfg.stop_file) as stop,
    ):
        locked()

        def state_of(step: int | None) -> TrainState:
            return make_state() if step is None else checkpoints.restore(abstract, step)

        newest = checkpoints.newest_whole()
        state = state_of(newest)
        if newest is not None:
            print(f"going on from step {newest:,}", flush=True)
        loop = _Loop(
            run=run,
            cfg=cfg,
            mesh=mesh,
            checkpoints=checkpoints,
            best=best,
            stop=stop,
            lock=lock,
            state=state,
            stages=stages,
            judge_first=judge_first,
            show=show,
            learning_rate=learning_rate,
            began=began,
        )
        try:
            while True:
                try:
                    loop.go_through_all()
                    break
                except GoBackError as error:
                    loop.go_back(error, state_of)
        finally:
            trained = loop.close()
        return trained


@dataclasses.dataclass(kw_only=True, eq=False)
class _Loop:
    """The state of the loop, from step to step and from stage to stage."""

    run: pathlib.Path
    cfg: LoopConfig
    mesh: Mesh
    checkpoints: Checkpoints
    best: BestState | None
    stop: StopRequest
    lock: RunLock | None
    state: TrainState
    stages: Sequence[Stage]
    judge_first: bool
    show: Callable[[dict[str, float]], str]
    learning_rate: Callable[[int], Any]
    began: float

    def __post_init__(self) -> None:
        run, cfg = self.run, self.cfg
        self.total = sum(stage.num_steps for stage in self.stages)
        self.recovery = Recovery(run, cfg, self.checkpoints, self.total)
        self.peak = peak_flops(self.mesh, cfg)
        self.goodput = Goodput(
            run if process.is_first() else None,
            began=self.began,
            keep=cfg.keep_checkpoints,
        )
        self.evaluation: dict[str, float] = {}
        self.last_line: dict[str, Any] = {}
        self._begin_from(self.state)
        self.profiler = Profiler(run, cfg, self.done)
        self.watchdog = Watchdog(self._progress)

    def _begin_from(self, state: TrainState) -> None:
        """Goes on from a state; what was logged of later steps is dropped."""
        self.state, self.done = state, int(state.step)
        self.log = MetricsLog(self.run, self.done, self.cfg)
        self.elapsed = self.log.elapsed_before
        self.window = Window()
        self.goodput.go_on(self.done)

    def go_back(
        self, error: GoBackError, state_of: Callable[[int | None], TrainState]
    ) -> None:
        """Goes back to the newest checkpoint, as `Recovery.go_back` decides."""
        with self.goodput.during("checkpoint"):
            self.checkpoints.wait()
            step = self.recovery.go_back(error, self.done)
            self.log.close()
            for leaf in jax.tree.leaves(self.state):
                leaf.delete()  # makes room for the other state
            state = state_of(step)
        self.recovery.begin()
        self._begin_from(state)

    def go_through_all(self) -> None:
        """Trains to the end of the last stage."""
        end = 0
        for stage in self.stages:
            start, end = end, end + stage.num_steps
            # A session that begins at the end of a stage evaluates it again.
            if self.done <= end:
                self._go_through(stage, start, end)

    def close(self) -> Trained:
        """Closes all files of the run and returns what came out so far."""
        self.watchdog.close()
        protect(False)
        self.profiler.close()
        spent = self.goodput.summary()
        self.goodput.save()
        self.log.close()
        return Trained(
            self.state,
            self.evaluation,
            self.best.best if self.best else None,
            self.elapsed,
            spent,
            self.last_line,
        )

    def _go_through(self, stage: Stage, start: int, end: int) -> None:
        """Trains to the end of a stage of the updates from `start` to `end`."""
        every = self.cfg.eval_every_steps
        if self.done == 0:
            if self.judge_first:
                self._judge(stage)
        elif every and self.done % every == 0 and start < self.done < end:
            # The session before may have ended between checkpoint and evaluation.
            self._judge(stage)
        self.recovery.enter(stage, start, self.done)
        inputs = InputClock(stage.batches(self.done - start))
        self.pace = Pace()  # a stage has a step of its own, and may have longer rows
        try:
            with self.goodput.during("start_up"):
                batch = next(inputs, None)
            inputs.take()
            self.window.restart_clock()
            while batch is not None and self.done < end and not self._must_stop():
                if self._is_over():
                    break
                if self.recovery.passes_by(self.done):
                    self.state = self.recovery.pass_by(self.state)
                    self.done += 1
                else:
                    self._train(stage, batch)
                self._follow_up(stage, inputs, end)
                batch = self._next(stage, inputs)
        finally:
            inputs.close()  # frees memory and cores for what follows
        self._close_window(stage, inputs)
        if self.done < end and not self._is_over():
            raise self._interrupted()
        self._save_whole()
        if self.done < end:
            print(
                f"training ends at step {self.done:,} of {self.total:,} without a better "
                f"score: {self.best}",
                flush=True,
            )
        if self.done == end or not self.evaluation:
            self._judge(stage)

    def _progress(self) -> tuple[int, int] | None:
        """For the watchdog: the last step, and how many steps have not come back."""
        is_training = self.goodput.category == "train"
        return (self.done, len(self.window)) if is_training else None

    def _next(self, stage: Stage, inputs: InputClock) -> Any:
        """The next batch, or None; planning an epoch may take minutes."""
        try:
            with self.goodput.during("input_wait"), self.stop.at_once():
                return next(inputs, None)
        except StoppedError:
            self._close_window(stage, inputs)
            raise self._interrupted() from None

    def _is_over(self) -> bool:
        """Whether there was no better state for so long that training ends early."""
        return self.best is not None and self.best.is_over(self.done)

    def _interrupted(self) -> InterruptedRunError:
        """Saves the state, and says how the run goes on."""
        self._save_whole()
        protect(False)
        return InterruptedRunError(
            f"stopped at step {self.done:,} of {self.total:,}; the checkpoint is in "
            f"{self.run}. Start the same command again to continue."
        )

    def _follow_up(self, stage: Stage, inputs: InputClock, end: int) -> None:
        """Logs, saves and evaluates when it is time.

        At the end of a stage it only logs: `_go_through` saves and evaluates there.
        """
        cfg = self.cfg
        if self.done < end and self.pace.is_due(self.done):
            jax.block_until_ready(self.state.params)
            print(self.pace.describe(self.done, end), flush=True)
        if self.done % cfg.log_every_steps == 0 or self.done == end:
            self._close_window(stage, inputs)
        if self.done == end:
            return
        if self.done % cfg.checkpoint_every_steps == 0:
            self._close_window(stage, inputs)
            self._save()
        if cfg.eval_every_steps and self.done % cfg.eval_every_steps == 0:
            self._close_window(stage, inputs)
            self._judge(stage)

    def _must_stop(self) -> bool:
        """Whether any host was asked to stop. All hosts get the same answer."""
        if self.lock is not None:
            self.lock.check()
        return self.stop.of_any_host(self.done, self.cfg.stop_check_every_steps)

    def _train(self, stage: Stage, batch: Any) -> None:
        stage.check(batch)
        if not self.pace.is_first_of(batch.input_ids.shape):
            self._step(stage, batch)
            return
        # The time of compilation must not count in the logged speed.
        jax.block_until_ready(self.state.params)
        started = time.perf_counter()
        with self.goodput.during("compile"):
            self._step(stage, batch)
            jax.block_until_ready(self.state.params)
        self.window.leave_out(time.perf_counter() - started)
        self.pace.restart(self.done)

    def _step(self, stage: Stage, batch: Any) -> None:
        with self.profiler.step(self.done, self.state.params):
            placed = to_devices(self.mesh, batch)
            self.recovery.stop_at(self.done, self.state, placed)
            step, every = stage.step, self.cfg.verify_every
            if every and (self.done + 1) % every == 0:
                step = verified(step, self._note)
            self.state, metrics = step(self.state, placed)
        self.window.add(metrics)
        self.recovery.add(self.done)
        self.done += 1
        protect(True)

    def _note(self, kind: str, said: str, **values: Any) -> None:
        """Prints what has happened in the newest step, and keeps it with the metrics."""
        print(f"step {self.done + 1:,}: {said}", flush=True)
        self.log.write(kind, self.done + 1, {**values, "said": said})

    def _close_window(self, stage: Stage, inputs: InputClock) -> None:
        if not len(self.window):
            return
        self.recovery.judge(self.window, self.log)
        sums, waited = self.window.close(self.done), inputs.take()
        self.elapsed += sums.seconds
        if not sums.means:  # all updates were skipped
            return
        self.last_line = {
            **sums.means,
            **speeds(sums.work, sums.seconds, stage.rates, stage.flops, self.peak),
            "input_wait_share": waited / sums.seconds,
            "learning_rate": float(self.learning_rate(self.done - 1)),
            "elapsed_secs": self.elapsed,
            "goodput": self.goodput.share(),
            **peak_memory(),
        }
        self.log.write("train", self.done, self.last_line)
        self.goodput.save()
        text = f"step {self.done:>7,}/{self.total:,}  {self.show(self.last_line)}"
        if sums.num_timed:
            each = sums.seconds / sums.num_timed
            self.watchdog.timed(each)
            text += f"  {duration((self.total - self.done) * each)} left"
        print(text, flush=True)

    def _save(self) -> None:
        self.goodput.mark(self.done)
        with self.goodput.during("checkpoint"):
            self.recovery.require_finite(self.state, self.done)
            self.checkpoints.save(self.state, watch=self.recovery.notes)
        self.window.restart_clock()

    def _save_whole(self) -> None:
        """Returns when the checkpoint is on disk."""
        self._save()
        with self.goodput.during("checkpoint"):
            self.checkpoints.wait()

    def _judge(self, stage: Stage) -> None:
        judged = averaged(self.state)
        try:
            with self.goodput.during("evaluate"), self.stop.at_once():
                evaluation = stage.evaluate(judged.params)
        except StoppedError:
            raise self._interrupted() from None
        require_finite("in the evaluation at step", evaluation, self.done)
        self.evaluation = evaluation
        self.log.write("eval", self.done, self.evaluation)
        what = "held out" if judged is self.state else "held out, averaged parameters,"
        text = f"{what} at step {self.done:,}:  {self.show(self.evaluation)}"
        if self.best is not None:
            with self.goodput.during("checkpoint"):
                self.checkpoints.wait()  # Orbax writes one checkpoint at a time
                is_best = self.best.consider(judged, self.evaluation)
            text += "  (the best so far)" if is_best else f"  ({self.best})"
        print(text, flush=True)
        self.window.restart_clock()
