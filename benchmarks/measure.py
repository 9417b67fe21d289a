"""Figures, how they are timed, and where they are kept while a section runs."""

import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured quantity, every repetition of it."""

    what: str
    unit: str
    values: tuple[float, ...]
    """One a repetition, in the order of time."""
    at_least: float | None = None
    """What the project promises; a figure without a promise has neither bound."""
    at_most: float | None = None
    note: str = ""
    of: str = ""
    """What it is a quality of, where several things have the same ones: a table with a
    row for each then."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the promise; `None` where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )


class Findings:
    """Writes what a section finds line by line, so that an interruption loses little.

    Each line of the file is an object with `figure` or `left_out`.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", buffering=1)

    def figure(self, what: str, unit: str, *values: float, **more: Any) -> Figure:
        """Keeps one quantity; `more` are the other fields of `Figure`."""
        figure = Figure(what=what, unit=unit, values=values, **more)
        self._write({"figure": dataclasses.asdict(figure)})
        return figure

    def left_out(self, what: str, reason: str | BaseException) -> None:
        """Says what could not be measured, and why."""
        if isinstance(reason, BaseException):
            reason = f"{type(reason).__name__}: {reason}"
        self._write({"left_out": f"{what}: {reason}"})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def __enter__(self) -> "Findings":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def read_findings(path: pathlib.Path) -> tuple[list[Figure], list[str]]:
    """The figures and the omissions in a file of `Findings`, whole lines only."""
    figures, left_out = [], []
    for line in (
        path.read_text(encoding="utf-8").splitlines(True) if path.exists() else ()
    ):
        if not line.endswith("\n"):
            break
        found = json.loads(line)
        if "figure" in found:
            values = tuple(found["figure"].pop("values"))
            figures.append(Figure(values=values, **found["figure"]))
        else:
            left_out.append(found["left_out"])
    return figures, left_out


@dataclasses.dataclass
class Timings:
    """Repetitions of one candidate: seconds, and how much was done in each."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    amounts: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def rates(self, amount: str, per: float = 1.0) -> tuple[float, ...]:
        """`amount / per` a second, of every repetition."""
        return tuple(
            done[amount] / per / seconds
            for done, seconds in zip(self.amounts, self.seconds, strict=True)
        )


def interleaved(
    candidates: Mapping[str, Callable[[int], dict[str, float]]],
    repetitions: int,
    findings: Findings,
) -> dict[str, Timings]:
    """Times candidates in turns, so that a slow minute of the machine hits all of them.

    Args:
        candidates: name -> what to do in a repetition, by its number; returns how much
            was done, and `seconds` if not all of its time counts.
        repetitions: rounds in which every candidate has one turn.
        findings: told of a candidate that fails, which then has no more turns.

    Returns:
        The candidates that ended every round.
    """
    timings = {name: Timings() for name in candidates}
    for number in range(repetitions):
        for name in list(timings):
            started = time.perf_counter()
            try:
                amounts = candidates[name](number)
            except Exception as error:
                findings.left_out(name, error)
                del timings[name]
                continue
            elapsed = time.perf_counter() - started
            timings[name].seconds.append(amounts.get("seconds", elapsed))
            timings[name].amounts.append(amounts)
    return timings


def report_ratios(
    timings: Mapping[str, Timings],
    ours: str,
    amount: str,
    findings: Findings,
    promised: Mapping[str, float],
) -> None:
    """Ours over each of the others, round by round.

    Args:
        timings: of `interleaved`; without `ours` there is nothing to say.
        amount: whose rate is compared.
        promised: name of another -> how many times faster ours shall be.
    """
    for name, theirs in timings.items():
        if name != ours and ours in timings:
            rates = timings[ours].rates(amount), theirs.rates(amount)
            findings.figure(
                f"{ours} / {name}",
                "x",
                *(mine / its for mine, its in zip(*rates, strict=True)),
                at_least=promised.get(name),
            )


def peak_memory() -> tuple[float, float]:
    """Most memory ever resident, in GiB: of this process, and of any child that ended.

    A child counts what its parent held when it was started, so this is never too low.
    """
    import resource

    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1 << 10
    mine, its = (
        resource.getrusage(who).ru_maxrss * unit / 2**30
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return mine, its


def stay_on_one_core() -> None:
    """Confines this process and all that it starts to one core.

    Raises:
        RuntimeError: the system cannot do that; there is no figure "a core" then.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise RuntimeError(
            f"{sys.platform} cannot confine a process to one core; figures a core are "
            "measured on Linux."
        )
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def bytes_under(folder: pathlib.Path, *, leaving_out: str = "") -> int:
    """Size of all files in a folder, without those of a subfolder of that name."""
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and leaving_out not in path.relative_to(folder).parts[:-1]
    )
