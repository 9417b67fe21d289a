"""A source as independent pieces of work."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Unit:
    """An independent piece of work; picklable, so that workers can take it."""

    path: str
    name: str
    """How keys begin: the path below the fixed part of the pattern."""
    size_bytes: int
    """On disk, this unit's share; a weight for progress, not a text length."""
    kind: Literal["file", "tar", "tfds"] = "file"
    start: int = 0
    end: int | None = None
    """The unit has what begins in [start, end): documents by the byte, members of an
    archive by the byte, row groups of Parquet or records of TFDS by their number."""
    is_part: bool = False
    """A share of something larger, in which by chance no document may begin."""
    member: tuple[int, int] | None = None
    """Of a file inside an archive: the bytes of `path` where it begins and ends."""
    split: str = ""
    field: str = ""
    """Of TFDS."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Units in a stable order."""

    spec: str
    units: tuple[Unit, ...]

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.units)
