"""Divides a large section into several of about one size, unpacked where needed."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

from bert_jax.data.text.archives import Member, list_members
from bert_jax.data.text.parquet_source import is_parquet, row_group_bytes
from bert_jax.data.text.sections import Section
from bert_jax.data.text.streams import Window, compression, naming_file, open_stream

_COPY_BYTES = 1 << 20
_TAR_BLOCK_BYTES = 512


def divide_section(
    section: Section, target_bytes: int, workspace: pathlib.Path
) -> tuple[Section, ...]:
    """Divides one section; see `sources.divide`."""
    path = section.path
    if compression(path):
        if section.size_bytes <= 2 * target_bytes:
            return (section,)
        section = _unpacked(section, workspace)
    with naming_file(path):
        if section.kind == "tar":
            return _divide_archive(section, target_bytes)
        return _divide_file(section, target_bytes)


def _unpacked(section: Section, workspace: pathlib.Path) -> Section:
    """The same section, of a file in the workspace that is not compressed."""
    status = os.stat(section.path)
    identity = f"{section.path}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.blake2b(os.fsencode(identity), digest_size=16).hexdigest()
    path = workspace / f"{digest}.unpacked"
    if not path.exists():
        partial = workspace / f"{digest}.partial-{os.getpid()}"
        try:
            workspace.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                for block in _plain_blocks(section.path):
                    file.write(block)
            os.replace(partial, path)
        except OSError as error:
            raise ValueError(
                f"Cannot unpack {section.path} to {workspace}: {error}. Make room there, "
                "or unpack the file yourself and name the result as the source."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
    return dataclasses.replace(section, path=str(path), size_bytes=path.stat().st_size)


def _plain_blocks(path: str) -> Iterator[bytes]:
    with naming_file(path), Window(path) as packed:
        plain = open_stream(packed, path)
        while block := plain.read(_COPY_BYTES):
            yield block


def _divide_file(section: Section, target_bytes: int) -> tuple[Section, ...]:
    if not is_parquet(section.name):
        length = section.size_bytes if section.end is None else section.end
        return _equal_ranges(section, length, target_bytes)
    with Window(section.path, *(section.member or ())) as file:
        sizes = row_group_bytes(file, section.name)
    # Row groups give their uncompressed sizes, which are scaled to sizes on disk.
    total = max(sum(sizes), 1)
    ends = [end * section.size_bytes // total for end in itertools.accumulate(sizes)]
    sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
    runs = _runs(sizes, target_bytes)
    if len(runs) < 2:
        return (section,)
    return tuple(
        dataclasses.replace(
            section,
            size_bytes=sum(sizes[start:end]),
            start=start,
            end=end,
            is_range=True,
        )
        for start, end in runs
    )


def _equal_ranges(
    section: Section, length: int, target_bytes: int
) -> tuple[Section, ...]:
    """Divides [0, length), the bytes of a file or the records of a TFDS dataset."""
    count = min((section.size_bytes + target_bytes // 2) // target_bytes, length)
    if count < 2:
        return (section,)
    bounds = [length * k // count for k in range(count + 1)]
    sizes = [section.size_bytes * bound // length for bound in bounds]
    return tuple(
        dataclasses.replace(
            section,
            size_bytes=sizes[k + 1] - sizes[k],
            start=bounds[k],
            end=bounds[k + 1],
            is_range=True,
        )
        for k in range(count)
    )


def _divide_archive(section: Section, target_bytes: int) -> tuple[Section, ...]:
    members = list_members(section.path, section.name)
    if not members:
        raise ValueError(f"{section.name} holds no files; take it out of the source.")
    # A large member is divided like a file. The members between two large ones stay
    # together and are read one after another.
    sections: list[Section] = []
    between: list[Member] = []
    for member in members:
        if member.end - member.start <= target_bytes or compression(member.name):
            between.append(member)
            continue
        sections += _member_runs(section, between, target_bytes)
        between = []
        file = dataclasses.replace(
            section,
            name=f"{section.name}/{member.name}",
            size_bytes=member.end - member.start,
            kind="file",
            is_range=True,
            member=(member.start, member.end),
        )
        sections += _divide_file(file, target_bytes)
    return (*sections, *_member_runs(section, between, target_bytes))


def _member_runs(
    section: Section, members: Sequence[Member], target_bytes: int
) -> list[Section]:
    """Sections of members that follow one another."""
    sections = []
    for start, end in _runs([m.end - m.header for m in members], target_bytes):
        first, last = members[start].header, members[end - 1].end
        last = -(-last // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
        sections.append(
            dataclasses.replace(
                section, size_bytes=last - first, start=first, end=last, is_range=True
            )
        )
    return sections


def _runs(sizes: Sequence[int], target: int) -> list[tuple[int, int]]:
    """Joins neighbours to runs of about `target` in all; each run is (start, end)."""
    runs = []
    start = total = 0
    for number, size in enumerate(sizes):
        if total and total + size // 2 > target:
            runs.append((start, number))
            start, total = number, 0
        total += size
    return [*runs, (start, len(sizes))] if sizes else []
