"""A source divided into sections that are read independently of each other."""

import dataclasses
import os
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Section:
    """A contiguous stretch of a source, which any process can read on its own."""

    path: str
    name: str
    """How the keys of its documents begin: the path below the fixed part of the glob."""
    size_bytes: int
    """Size on disk, compressed if the file is; used to divide work and to show progress."""
    kind: str = "file"
    """"file"; "tar", an archive of files; or a word of `registry.KINDS`, whose reader
    reads the section."""
    start: int = 0
    end: int | None = None
    """The section holds what begins in [start, end). These count bytes of a file or an
    archive, row groups of Parquet, or records of TFDS. `None` means to the end;
    `divide` then takes `size_bytes` for the length."""
    is_range: bool = False
    """Whether it is a range of something larger; then no document may begin in it."""
    member: tuple[int, int] | None = None
    """For a file inside an archive: the bytes [begin, end) of `path` that hold it."""
    split: str = ""
    field: str = ""
    """`split` and `field` name the split and the feature with the text, for TFDS only."""
    source: int = 0
    """Which of `Source.specs` names it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """All sections of one or more named sources, in an order that never changes."""

    specs: tuple[str, ...]
    """How the sources are named, with absolute paths."""
    sections: tuple[Section, ...]
    root: str = ""
    """The folder to which the names of files are relative; "" if they are to none."""
    num_repeated: int = 0
    """How many files were named more than once; each is read once."""

    @property
    def spec(self) -> str:
        """All names in one, for messages."""
        return " + ".join(self.specs)

    @property
    def size_bytes(self) -> int:
        return sum(section.size_bytes for section in self.sections)

    def files(self) -> list[str]:
        """Name, size and time of change of each file, by which changes are noticed."""
        return [
            f"{section.name} {section.size_bytes} {os.stat(section.path).st_mtime_ns}"
            for section in self.sections
        ]


class Request(NamedTuple):
    """What a source is opened by."""

    spec: str
    """The source as it was named, such as `files:text/*.txt`."""
    rest: str
    """What stands behind the colon of `spec`."""
    num_workers: int = 1
    """For `docs:` only: number of processes that extract it."""
