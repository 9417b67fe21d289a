"""Candidates measured in turns: which of them fit the time, and how long a turn is."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.measure import Findings
from benchmarks.train_candidates import Candidate, Order
from benchmarks.train_worker import Worker, WorkerError

ROUNDS = 3
"""Turns of each candidate at least, time permitting."""
_RESERVED_ROUNDS, _MOST_ROUNDS = 1.3, 5
_POLL_SECS = 0.2
# A turn is longer by far than what stopping and starting a worker takes.
_SHORTEST_TURN_SECS, _LONGEST_TURN_SECS = 0.5, 4.0
_ALONE_SECS = 15.0
_LEAST_WARM_UP_SECS, _WARM_UP_SHARE = 45.0, 0.4
# Where other work runs beside it, a step may take so much longer than the last one.
_SLACK = 1.3


class Measured(NamedTuple):
    """A candidate and every repetition of it."""

    candidate: Candidate
    facts: dict[str, float]
    """Of building it."""
    turns: list[dict[str, Any]]
    """Of each repetition: `steps`, `seconds`, `host_seconds`, `peak_bytes`."""

    def rates(self, amount: float = 1.0) -> tuple[float, ...]:
        """A second, of what every step does `amount` of."""
        return tuple(amount * turn["steps"] / turn["seconds"] for turn in self.turns)


class _Warm(NamedTuple):
    worker: Worker
    measured: Measured
    first_secs: float
    """Of a step, while others warmed up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contest:
    """Lets candidates train in processes of their own."""

    folder: pathlib.Path
    """Of the workers' logs."""
    findings: Findings
    """Told what is left out."""
    seconds_left: Callable[[], float]
    """Of the section."""
    report: Callable[[Measured], None]
    """Given what was measured of a candidate; after an interruption, what there was."""
    needed_bytes: Callable[[Order], float] = lambda order: 0.0
    """Of memory, by one candidate."""
    free_bytes: Callable[[], float] = lambda: float("inf")
    """Of memory, now."""

    def in_turns(self, orders: Sequence[Order], *, at_once: int) -> None:
        """All warm up, then all are measured round after round.

        A slow minute of the machine hits all of them so. The first of `orders` are the
        most important: what does not fit the time is left out from the end.

        Args:
            at_once: how many warm up at the same time.
        """
        warm: list[_Warm] = []
        with contextlib.ExitStack() as workers:
            try:
                self._warm_up(orders, warm, workers, at_once, self.seconds_left)
                self._take_turns(warm, self.seconds_left)
            finally:
                self._report(warm)

    def one_by_one(self, orders: Sequence[Order]) -> None:
        """Each has the device and its memory to itself, for all its repetitions."""
        for order in orders:
            warm: list[_Warm] = []
            with contextlib.ExitStack() as worker:
                try:
                    # None takes all the time from those after it.
                    left = self.seconds_left()
                    limit = max(min(left, _LEAST_WARM_UP_SECS), _WARM_UP_SHARE * left)
                    end = time.monotonic() + limit
                    until = functools.partial(self._until, end)
                    self._warm_up([order], warm, worker, 1, until)
                    end = time.monotonic() + _ALONE_SECS
                    self._take_turns(warm, functools.partial(self._until, end))
                finally:
                    self._report(warm)

    def _until(self, end: float) -> float:
        return min(self.seconds_left(), end - time.monotonic())

    def _report(self, warm: Sequence[_Warm]) -> None:
        for one in warm:
            if one.measured.turns:
                self.report(one.measured)

    def _warm_up(
        self,
        orders: Sequence[Order],
        warm: list[_Warm],
        workers: contextlib.ExitStack,
        at_once: int,
        seconds_left: Callable[[], float],
    ) -> None:
        """Adds to `warm` who can be measured, in the order of their coming."""
        waiting, starting = list(orders), list[Worker]()
        began = time.monotonic()
        while waiting or starting:
            # Steps beside others that warm up take two or three times as long as alone,
            # so this is time for more rounds than it says. A turn is two steps at least.
            turns = sum(max(2 * one.first_secs, _SHORTEST_TURN_SECS) for one in warm)
            if seconds_left() < _RESERVED_ROUNDS * max(turns, _SHORTEST_TURN_SECS):
                for order in (*(worker.order for worker in starting), *waiting):
                    self.findings.left_out(
                        order.candidate.name,
                        f"time, it was not warm after {time.monotonic() - began:.0f} s",
                    )
                for worker in starting:
                    worker.close()
                return
            while waiting and len(starting) < at_once:
                order = waiting.pop(0)
                if (needed := self.needed_bytes(order)) > (free := self.free_bytes()):
                    self.findings.left_out(
                        order.candidate.name,
                        f"memory, about {needed / 2**30:.1f} GiB where "
                        f"{free / 2**30:.1f} are free",
                    )
                    continue
                number = len(orders) - len(waiting)
                log = self.folder / f"{order.task.name}-{number}.log"
                worker = Worker(order, log)
                workers.callback(worker.close)
                starting.append(worker)
            for worker in list(starting):
                try:
                    answer = worker.ready(_POLL_SECS)
                except WorkerError as error:
                    self.findings.left_out(worker.candidate.name, str(error))
                    starting.remove(worker)
                    worker.close()
                    continue
                if answer is not None:
                    starting.remove(worker)
                    measured = Measured(worker.candidate, answer["facts"], [])
                    warm.append(_Warm(worker, measured, answer["step"]))

    def _take_turns(
        self, warm: Sequence[_Warm], seconds_left: Callable[[], float]
    ) -> None:
        """Adds repetitions to those of `warm`, as many as the time allows."""
        running = list(warm)
        # Steps seen beside others that warmed up were slow: each round corrects them.
        step_secs = {one.worker: one.first_secs for one in warm}
        for number in range(_MOST_ROUNDS):
            if not running:
                return
            share = seconds_left() / max(1, ROUNDS - number) / len(running) / _SLACK
            turn = min(_LONGEST_TURN_SECS, max(_SHORTEST_TURN_SECS, share))
            # The first step of a turn is not measured (train_worker.py says why).
            counts = {
                one.worker: max(1, int(turn / step_secs[one.worker]) - 1)
                for one in running
            }
            if number and seconds_left() < _SLACK * sum(
                (counts[one.worker] + 1) * step_secs[one.worker] for one in running
            ):
                return
            for one in list(running):
                count = counts[one.worker]
                try:
                    turn_of_it = one.worker.steps(count, max(1.0, seconds_left()))
                except WorkerError as error:
                    what = "the rest of " * bool(one.measured.turns)
                    self.findings.left_out(what + one.worker.candidate.name, str(error))
                    running.remove(one)
                    continue
                step_secs[one.worker] = turn_of_it["seconds"] / count
                one.measured.turns.append({"steps": count, **turn_of_it})
