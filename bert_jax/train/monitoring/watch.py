"""Judges the loss of every step: which updates were skipped, and when a run must go back.

A step skips its own update if its loss or the norm of its gradients is not finite
(`train_step`). This module says when several in a row, or a loss far above the last ones, send
the run back to a checkpoint. It decides by the numbers of the steps alone, which are the same
in all processes and in a repetition.
"""

import math
import statistics
from typing import Any, NamedTuple

from bert_jax.config import LoopConfig
from bert_jax.train.monitoring.metrics import WAY_OUT, NotFiniteError

# The standard deviation of normal numbers is their median absolute deviation times this.
_DEVIATIONS = 1.4826


class StepNumbers(NamedTuple):
    """What a step reports of itself."""

    loss: float
    grad_norm: float
    """Global norm of the gradients; 0 where the step does not report it."""

    @classmethod
    def of(cls, metrics: dict[str, Any]) -> "StepNumbers":
        """Those of the fetched metrics of a step; 0 for what it does not report."""
        given = (metrics.get(name) for name in ("loss", "grad_norm"))
        return cls(*(float(mean.sum) if mean else 0.0 for mean in given))

    @property
    def is_skipped(self) -> bool:
        """Whether the step skipped its update; the same rule as in `train_step`."""
        return not (math.isfinite(self.loss) and math.isfinite(self.grad_norm))

    def __str__(self) -> str:
        return f"loss {self.loss:.6g}, norm of the gradients {self.grad_norm:.6g}"


class Offence(NamedTuple):
    """The bad batches that keep a run from going on as it is."""

    first: int
    """Number of the first bad batch, counted from 0."""
    last: int
    """Number of the last bad batch."""

    @property
    def suspects(self) -> range:
        """The bad batches, and as many before them.

        A loss is that of a batch under weights that the batch before it has changed, so
        either may be to blame.
        """
        return range(max(0, 2 * self.first - self.last - 1), self.last + 1)


class GoBackError(NotFiniteError):
    """The run has to go back to its last checkpoint."""

    def __init__(self, reason: str, offence: Offence | None = None) -> None:
        """Without an `offence`, no batch is to blame, and the steps are repeated as they are.

        Args:
            reason: sentences without the last full stop.
            offence: the batches that are to blame.
        """
        super().__init__(f"{reason}. {WAY_OUT}")
        self.reason, self.offence = reason, offence


class Watch:
    """Judges the steps of a run in their order."""

    def __init__(self, cfg: LoopConfig, notes: dict[str, Any] | None = None) -> None:
        """Goes on from the `notes` that a checkpoint keeps, or begins with nothing."""
        self._cfg = cfg
        self._in_a_row: int = (notes or {}).get("skipped_in_a_row", 0)
        self._losses: list[float] = (notes or {}).get("losses", [])

    @property
    def notes(self) -> dict[str, Any]:
        """What a checkpoint must keep, so that a resumed run judges as this one would."""
        return {"skipped_in_a_row": self._in_a_row, "losses": self._losses}

    def forget_losses(self) -> None:
        """The next losses are not to be measured against those so far."""
        self._losses = []

    def pass_by(self) -> None:
        """The next batch is passed by: it ends a row of skipped updates."""
        self._in_a_row = 0

    def judge(self, number: int, found: StepNumbers) -> None:
        """Takes note of the step of batch `number`.

        Raises:
            GoBackError: too many updates in a row were skipped, or the loss is too high.
        """
        cfg = self._cfg
        if found.is_skipped:
            self._in_a_row += 1
            if self._in_a_row < cfg.max_skipped:
                return
            first = number - self._in_a_row + 1
            raise GoBackError(
                f"{self._in_a_row} updates in a row were skipped, those of the batches "
                f"{first:,} to {number:,}, because loss or gradients were not finite "
                f"({found})",
                Offence(first, number),
            )
        self._in_a_row = 0
        if cfg.spike_deviations is None:
            return
        if len(self._losses) == cfg.spike_window:
            median = statistics.median(self._losses)
            deviation = _DEVIATIONS * statistics.median(
                abs(loss - median) for loss in self._losses
            )
            if found.loss > median + cfg.spike_deviations * deviation:
                raise GoBackError(
                    f"the loss of batch {number:,} is {found.loss:.6g}, more than "
                    f"{cfg.spike_deviations:g} deviations of {deviation:.3g} above "
                    f"{median:.6g}, the median of the last {cfg.spike_window:,}",
                    Offence(number, number),
                )
        self._losses = [*self._losses, found.loss][-cfg.spike_window :]
