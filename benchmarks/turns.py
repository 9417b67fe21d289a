"""Candidates in worker processes, measured in turns, and the ratios between them.

Every candidate lives in a process of its own, because neither JAX nor PyTorch lets another
library use the cores or the device's memory beside it. Between its turns a process is
stopped. A slow minute of the machine then hits all candidates.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

from benchmarks.results import Table
from bert_jax.runtime.start import HUGE_PAGES

ROUNDS = 5
"""Turns of each candidate, if there is time for as many."""
# Starting and compiling should take this share of the time; the rest is for the turns.
_WARM_UP_SHARE = 0.65
# Where other work runs too, a turn may take so much longer than the one before.
_SLACK = 1.3
# Processes that start and compile at the same time: each keeps some cores busy.
_AT_ONCE = max(2, (os.cpu_count() or 1) // 4)
_PR_SET_PDEATHSIG = 1
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    # Otherwise JAX takes most of a GPU's memory at its start, and PyTorch finds none.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class Clock(NamedTuple):
    """The time at which something must have ended."""

    end: float
    """On the clock of `time.monotonic`."""

    @classmethod
    def of(cls, seconds: float) -> "Clock":
        """A clock that ends so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self.end - time.monotonic()

    def part(self, share: float) -> "Clock":
        """A clock that ends after this share of the time that is left."""
        return Clock.of(share * self.left)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that is measured in a process of its own."""

    name: str
    """Its row in the table."""
    runner: str
    """`module:name` of a class that makes a `Runner`, or of a function for `ask`."""
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments for it."""
    one_core: bool = False
    """Confine the process, and all that it starts, to one core."""
    huge_pages: bool = False
    """Give the process the memory allocator that the command `bert-jax` gives itself."""


class Runner(Protocol):
    """What a worker process makes and drives. It comes ready: loaded and compiled."""

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        """Works for one turn.

        Args:
            number: of the turn, from 0.
            seconds: about how long it should take, where the runner can choose.

        Returns:
            The measured "seconds", and how much was done in them, by name.
        """


class RepeatedStep:
    """A runner that repeats one step as often as its turn has time for.

    A subclass defines `run`, and calls `warm_up` at the end of its constructor.
    """

    _step_secs = 1.0

    def run(self, count: int) -> None:
        """Does `count` steps and waits until the last one has ended."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises a ValueError if the last step did other work than it should."""

    def warm_up(self) -> None:
        """Does a first step, which may compile, and times a second one."""
        self.run(1)
        self.turn(0, 0.0)

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        """Does one step that is not measured, then as many as `seconds` allow.

        Training does not pause, but a candidate does while others have their turns, and
        a virtual machine takes back free memory meanwhile: the step after a pause takes
        up to twice as long (LOG.md).
        """
        self.run(1)
        count = max(1, int(seconds / self._step_secs) - 1)
        started = time.perf_counter()
        self.run(count)
        elapsed = time.perf_counter() - started
        self._step_secs = elapsed / count
        self.check()
        return {"seconds": elapsed, "steps": count}


class WorkerError(RuntimeError):
    """A candidate that cannot be measured, and why."""


class Worker:
    """The process of one candidate, seen from its parent.

    The process sends what its function returned; or `None` when its runner is made, and
    then a dict for each turn that it was told to take. A text is an error.
    """

    def __init__(self, candidate: Candidate) -> None:
        """Starts the process; `pipe` has something to read when it is ready."""
        self.candidate = candidate
        context = multiprocessing.get_context("spawn")
        self.pipe, its = context.Pipe()
        self._process = context.Process(target=_work, args=(candidate, its))
        given = os.environ.get("GLIBC_TUNABLES")
        if candidate.huge_pages and given is None:
            # glibc reads this at the start of a process only.
            os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        self._process.start()
        if given is None:
            os.environ.pop("GLIBC_TUNABLES", None)
        its.close()

    def answer(self, limit: float) -> Any:
        """Waits for what the process sends next, and stops the process.

        Raises:
            WorkerError: it failed, or took longer than `limit` seconds.
        """
        if not self.pipe.poll(limit):
            raise WorkerError(f"it was not done after {limit:.0f} s")
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(f"its process ended with exit code {code}") from None
        if isinstance(answer, str):
            raise WorkerError(answer)
        self._signal(signal.SIGSTOP)
        return answer

    def turn(self, number: int, seconds: float, limit: float) -> dict[str, float]:
        """Lets the runner work for one turn; errors are those of `answer`."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send((number, seconds))
        return self.answer(limit)

    def close(self) -> None:
        """Ends the process at once, with all that it has started."""
        self._signal(signal.SIGKILL)
        self._process.kill()  # it has a group only once it has begun
        self._process.join()
        self.pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _work(candidate: Candidate, pipe: Connection) -> None:
    """Runs in the worker's process: makes the runner, then lets it have its turns."""
    # The parent ends it, and all that it starts; the terminal's Ctrl-C does not.
    os.setpgrp()
    if sys.platform == "linux":
        # A process that is stopped cannot notice by itself that its parent was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries print warnings; what matters is sent.
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    os.environ.update(_ENVIRONMENT)
    try:
        if candidate.one_core:
            os.environ["OMP_NUM_THREADS"] = "1"
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        module, _, name = candidate.runner.partition(":")
        make = getattr(importlib.import_module(module), name)
        made = make(**candidate.arguments)
        is_runner = hasattr(made, "turn")
        pipe.send(None if is_runner else made)
        while is_runner:
            pipe.send(made.turn(*pipe.recv()))
    except EOFError:
        return  # the parent has ended
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        pipe.send(text.splitlines()[0][:300])


@dataclasses.dataclass
class Measured:
    """A candidate and its turns."""

    candidate: Candidate
    turns: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def rates(self, amount: str, factor: float = 1.0) -> tuple[float, ...]:
        """`factor` times the amount done in a second, for each turn."""
        return tuple(factor * turn[amount] / turn["seconds"] for turn in self.turns)


def ratios(mine: Measured, theirs: Measured, amount: str) -> tuple[float, ...]:
    """My rate over theirs, turn by turn; turns that only one of them had are left out."""
    rates = mine.rates(amount), theirs.rates(amount)
    return tuple(a / b for a, b in zip(*rates, strict=False))


def fastest(measured: Sequence[Measured], amount: str) -> Measured | None:
    """The one with the highest median rate; `None` of none."""
    return max(
        measured, key=lambda one: statistics.median(one.rates(amount)), default=None
    )


def measure(
    candidates: Sequence[Candidate],
    table: Table,
    clock: Clock,
    *,
    share: float = 1.0,
    turn_secs: float = 4.0,
) -> list[Measured]:
    """Starts all candidates, then gives them turns, round after round.

    Candidates that are not ready in time, fail, or have fewer turns are named in the
    table. The first candidates are started first, so they should be the most important.

    Args:
        candidates: whom to measure; all of them must fit into the memory.
        table: told what is left out.
        clock: of the whole benchmark.
        share: of the time that is left, how much all this should take. Starting alone may
            take up to twice as much: on a slow machine the first are measured, not nobody.
        turn_secs: about how long a turn takes at most, where a runner can choose.

    Returns:
        Those with at least one turn, in the order of `candidates`.
    """
    with contextlib.ExitStack() as workers:
        part = clock.part(share)
        starting = clock.part(min(_WARM_UP_SHARE, 2.0 * share))
        ready = _start(candidates, table, starting, workers)
        clock = max(part, clock.part((1.0 - _WARM_UP_SHARE) * share))
        running = [(worker, Measured(worker.candidate)) for worker, _ in ready]
        found = [measured for _, measured in running]
        slowest = 0.0
        for number in range(ROUNDS if found else 0):
            if number and clock.left < _SLACK * slowest:
                left = f"{ROUNDS - number} of {ROUNDS} turns of each"
                table.leave_out(left, "the time was over")
                break
            began = time.monotonic()
            share = clock.left / (ROUNDS - number) / max(1, len(running)) / _SLACK
            for worker, measured in list(running):
                try:
                    limit = max(1.0, clock.left)
                    done = worker.turn(number, min(turn_secs, share), limit)
                    measured.turns.append(done)
                except WorkerError as error:
                    name = worker.candidate.name
                    table.leave_out(f"{name}, from turn {number + 1} on", error)
                    running.remove((worker, measured))
            slowest = max(slowest, time.monotonic() - began)
    return [one for one in found if one.turns]


def ask(candidates: Sequence[Candidate], table: Table, seconds: float) -> list[Any]:
    """What functions return, each in a process of its own, some of them at the same time.

    Returns:
        Plain values, in the order of `candidates`, without those that failed or were not
        done after so many seconds in all, which the table is told.
    """
    with contextlib.ExitStack() as workers:
        ready = _start(candidates, table, Clock.of(seconds), workers)
    return [answer for _, answer in ready]


def _start(
    candidates: Sequence[Candidate],
    table: Table,
    clock: Clock,
    workers: contextlib.ExitStack,
) -> list[tuple[Worker, Any]]:
    """Those who are ready before the clock ends, in the order of `candidates`, and what
    they sent."""
    queue, waiting = list(candidates), dict[Any, Worker]()
    ready: dict[str, tuple[Worker, Any]] = {}
    while (queue or waiting) and clock.left > 0.0:
        while queue and len(waiting) < _AT_ONCE:
            worker = Worker(queue.pop(0))
            workers.callback(worker.close)
            waiting[worker.pipe] = worker
        for pipe in wait(list(waiting), max(0.0, clock.left)):
            worker = waiting.pop(pipe)
            try:
                ready[worker.candidate.name] = worker, worker.answer(0.0)
            except WorkerError as error:
                table.leave_out(worker.candidate.name, error)
    for worker in waiting.values():
        worker.close()
    for candidate in (*(worker.candidate for worker in waiting.values()), *queue):
        table.leave_out(candidate.name, "it was not ready in time")
    return [ready[one.name] for one in candidates if one.name in ready]
