"""What the processes of a job tell each other about one that failed."""

from typing import NamedTuple

CRASHED = 134
"""The exit code of an aborted process, after which launchers start the job again."""


class EndOfAllError(Exception):
    """All processes of a job raise this at the same place; none has to tell the others."""


class Failure(NamedTuple):
    """The process that failed first, and why."""

    number: int
    host: str
    message: str
    exit_code: int
    """With which all processes of the job end."""
    with_stacks: bool = False
    """Whether each process prints where it was."""

    def __str__(self) -> str:
        return f"process {self.number} ({self.host}) failed: {self.message}"
