"""Which process of its job this one is. Needs no JAX, so that any command can ask."""

import dataclasses
import os
import sys
from typing import TextIO


@dataclasses.dataclass(frozen=True)
class Process:
    """One process of a job: a host, or one of several that share a machine."""

    number: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"process {self.number} of {self.count}"


_this = Process()


def this() -> Process:
    return _this


def is_first() -> bool:
    """True in the process that prints and writes: 0, or the only one."""
    return _this.number == 0


def notes() -> TextIO:
    """Standard error in process 0, for what is said beside the results; nowhere in others."""
    return sys.stderr if is_first() else sys.stdout


def become(process: Process) -> None:
    """Says which process this is. From then on only process 0 prints; errors still show."""
    global _this
    _this = process
    if process.number:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
