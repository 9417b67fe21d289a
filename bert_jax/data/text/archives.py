"""Reads tar archives: their members one after another, or some that follow each other."""

import io
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from bert_jax.data.text.streams import Window

_BLOCK_BYTES = tarfile.BLOCKSIZE
_READ_BYTES = 1 << 18


class Member(NamedTuple):
    """A file in an archive that is not compressed, as a range of the archive's bytes."""

    name: str
    header: int
    """Offset of the first byte of its headers in the archive."""
    start: int
    """Offset of the first byte of its content."""
    end: int
    """Offset behind its content."""


def read_members(
    stream: IO[bytes], name: str, *, is_range: bool = False
) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields (name, content) of each file in an archive.

    A content can be read only until the next pair is asked for. Folders, links, hidden
    and empty files are left out.

    Args:
        stream: the archive, not compressed.
        name: name of the archive, for messages.
        is_range: whether the stream holds only some members, without the end mark.

    Raises:
        ValueError: the archive is cut off, damaged, or several archives were joined, or
            it holds two files of one name.
    """
    seen = _CountingStream(stream)
    names: set[str] = set()
    end = 0
    with tarfile.open(
        fileobj=seen, mode="r|", bufsize=_READ_BYTES, encoding="utf-8", errors="replace"
    ) as archive:
        for info in archive:
            end = _end(info, name)
            if _is_document(info):
                _check_name(info.name, names, name)
                content = archive.extractfile(info)
                assert content is not None
                yield info.name, content
            _forget(archive)
    seen.read_rest()
    _check_end(name, end, seen.nonzero_size, None if is_range else seen.size)


def list_members(path: str, name: str) -> list[Member]:
    """Lists the files that `read_members` yields, for an archive that is not compressed.

    Args:
        path: path of the archive.
        name: name of the archive, for messages.

    Raises:
        ValueError: as `read_members`.
    """
    members = []
    names: set[str] = set()
    end = 0
    with Window(path) as file:
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="replace"
        ) as archive:
            for info in archive:
                end = _end(info, name)
                if _is_document(info):
                    _check_name(info.name, names, name)
                    first = info.offset_data
                    last = first + info.size
                    members.append(Member(info.name, info.offset, first, last))
                _forget(archive)
        file.seek(end)
        rest = _CountingStream(file)
        rest.read_rest()
    nonzero_size = end + rest.nonzero_size if rest.nonzero_size else 0
    _check_end(name, end, nonzero_size, end + rest.size)
    return members


class _CountingStream(io.RawIOBase):
    """Passes bytes on, and counts them all and up to the last one that is not zero."""

    def __init__(self, source: IO[bytes] | io.RawIOBase) -> None:
        self._source = source
        self.size = self.nonzero_size = 0

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size) or b""
        if significant := len(block.rstrip(b"\0")):
            self.nonzero_size = self.size + significant
        self.size += len(block)
        return block

    def read_rest(self) -> None:
        while self.read(_READ_BYTES):
            pass


def _is_document(info: tarfile.TarInfo) -> bool:
    hidden = info.name.rpartition("/")[2].startswith(".")
    return info.isfile() and info.size > 0 and not hidden


def _check_name(member: str, names: set[str], name: str) -> None:
    """Refuses a second file of one name, as `tar -r` appends a newer version of a file."""
    if member in names:
        raise ValueError(
            f"{name} holds {member} twice; expected each file once. Of two versions, tar "
            "unpacks the last: unpack the archive and read its files, or write it again."
        )
    names.add(member)


def _forget(archive: tarfile.TarFile) -> None:
    # The list holds the header of every member and would grow without bound.
    archive.members = []  # type: ignore[attr-defined]


def _end(info: tarfile.TarInfo, name: str) -> int:
    """Offset at which the next header or the end mark must be."""
    if info.issparse():
        raise ValueError(
            f"{name}: its member {info.name} is sparse, which is not supported; write "
            "the archive without --sparse."
        )
    size = info.size if info.isreg() else 0
    return info.offset_data + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _check_end(name: str, end: int, nonzero_size: int, size: int | None) -> None:
    """Refuses an archive that is damaged or cut off.

    Python's tarfile takes a damaged header or a missing end mark for the end.

    Args:
        name: name of the archive.
        end: offset behind the last member.
        nonzero_size: offset behind the last byte that is not zero.
        size: size of the archive; `None` if no end mark is expected.
    """
    if nonzero_size > end:
        raise ValueError(
            f"{name}: its members end at byte {end:,}, but more follows. The archive is "
            "damaged, or several archives were joined; write it again."
        )
    if size is not None and size < end + 2 * _BLOCK_BYTES:
        raise ValueError(
            f"{name} has no end mark and seems to be cut off; write it again."
        )
