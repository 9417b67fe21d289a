"""How a run gets over bad numbers: it skips, goes back, or stops with a diagnosis."""

import pathlib
from typing import Any

import jax

from bert_jax.config import LoopConfig
from bert_jax.runtime import process
from bert_jax.train.bad_step import PLACE, save_bad_step
from bert_jax.train.diagnosis import bad_tensors
from bert_jax.train.monitoring.metrics import (
    WAY_OUT,
    MetricsLog,
    NotFiniteError,
    Window,
)
from bert_jax.train.monitoring.watch import GoBackError, StepNumbers, Watch
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.history import Rollback, add_event, load_history
from bert_jax.train.stage import Stage
from bert_jax.train.step import TrainState, is_finite, pass_by


class Recovery:
    """What a loop knows of bad steps, and of the batches that it passes by."""

    def __init__(
        self, run: pathlib.Path, cfg: LoopConfig, checkpoints: Checkpoints, total: int
    ) -> None:
        """Reads the history of the run, which has `total` batches."""
        self._run, self._cfg, self._checkpoints = run, cfg, checkpoints
        self._total = total
        self._history = load_history(run)
        self._suspect: GoBackError | None = None
        self.begin()

    def begin(self) -> None:
        """The loop goes on from the newest checkpoint, or begins."""
        self._watch = Watch(self._cfg, self._checkpoints.note("watch"))
        self._in_window: list[int] = []

    def enter(self, stage: Stage, start: int, done: int) -> None:
        """The next steps, from batch `done` on, are of a stage that begins with `start`.

        A stage may hide more tokens or have other text than the one before, so a loss is
        measured against those of its own stage.
        """
        self._stage, self._start = stage, start
        if done == start:
            self._watch.forget_losses()

    @property
    def notes(self) -> dict[str, Any]:
        """What the next checkpoint must keep."""
        return self._watch.notes

    def passes_by(self, number: int) -> bool:
        """Whether a batch is not trained on."""
        return number in self._history.passed_by

    def pass_by(self, state: TrainState) -> TrainState:
        """The state after a batch that is not trained on; takes the state away."""
        self._watch.pass_by()
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        return jax.jit(pass_by, out_shardings=places, donate_argnums=0)(state)

    def add(self, number: int) -> None:
        """The step of this batch is in the window now."""
        self._in_window.append(number)

    def judge(self, window: Window, log: MetricsLog) -> None:
        """Judges all steps of the window, and leaves the skipped ones out of its means.

        Args:
            window: of the steps that were added since the last call.
            log: gets a line for each skipped update.

        Raises:
            GoBackError: the run has to go back.
        """
        numbers, self._in_window = iter(self._in_window), []

        def is_skipped(metrics: dict[str, Any]) -> bool:
            number, found = next(numbers), StepNumbers.of(metrics)
            if found.is_skipped:
                rows = self._rows(number) if process.is_first() else {}
                log.write("skipped", number + 1, {"found": str(found), **rows})
                print(f"step {number + 1:>7,}: update skipped, {found}", flush=True)
            self._watch.judge(number, found)
            return found.is_skipped

        window.leave_out_metrics(is_skipped)

    def require_finite(self, state: TrainState, step: int) -> None:
        """Raises GoBackError if a weight or a moment is NaN or infinite."""
        if not is_finite(state):
            raise GoBackError(
                f"A weight or a moment is NaN or infinite at step {step:,}. This state was "
                f"not saved. The first is {bad_tensors(state)}"
            )

    def go_back(self, error: GoBackError, noticed_at: int) -> int | None:
        """Decides what happens when the run goes back to its newest checkpoint.

        The batches that are to blame are passed by. A run that went back as often as it may,
        or would pass most of its batches by, repeats the steps up to the first of them, and
        stops there (`stop_at`): it is not the batches that are to blame.

        Returns:
            The step of the checkpoint to go on from; `None`: the beginning.

        Raises:
            GoBackError: it may not go back, and no batch is to blame, or another one
                than when the same steps were made before.
        """
        offence = error.offence
        suspects = offence.suspects if offence else range(0)
        may_go_back = (
            self._history.num_rollbacks < self._cfg.max_rollbacks
            and 2 * len(self._history.passed_by.union(suspects)) <= self._total
        )
        if not may_go_back and (offence is None or self._suspect is not None):
            raise error
        newest = self._checkpoints.newest_whole()
        if may_go_back:
            to = newest or 0
            event = Rollback(
                noticed_at=noticed_at,
                to=to,
                passed_by=tuple(number for number in suspects if number >= to),
                reason=error.reason,
            )
            self._history = add_event(self._run, event)
            print(f"going back: {event}", flush=True)
        else:
            assert offence is not None
            self._suspect = error
            print(
                f"{error.reason}. The run went back {self._history.num_rollbacks} times. It "
                f"may do so {self._cfg.max_rollbacks} times (--loop.max-rollbacks), and pass "
                f"half of its {self._total:,} batches by; it repeats the steps up to batch "
                f"{offence.first:,} to find out what is wrong there.",
                flush=True,
            )
        return newest

    def stop_at(self, number: int, state: TrainState, batch: Any) -> None:
        """Stops the run with a diagnosis if this batch is the suspect.

        Args:
            number: of the batch.
            state: the state before its step.
            batch: global arrays.

        Raises:
            NotFiniteError: it is the suspect. The step can be replayed.
        """
        suspect, diagnose = self._suspect, self._stage.diagnose
        if suspect is None or suspect.offence is None or number < suspect.offence.first:
            return
        found = "" if diagnose is None else f" {diagnose(state, batch)}"
        save_bad_step(self._run, self._checkpoints.identity, state, batch)
        raise NotFiniteError(
            f"stopped before batch {number:,}: {suspect.reason}.{found} The batch is in "
            f"{self._run / PLACE}; `bert-jax replay {self._run}` repeats its step. {WAY_OUT}"
        )

    def _rows(self, number: int) -> dict[str, Any]:
        return self._stage.rows(number - self._start)
