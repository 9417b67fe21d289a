"""Large units of a source as several of about one size, unpacked where that is needed."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

from bert_jax.data.text.archives import Member, list_members
from bert_jax.data.text.parquet_source import is_parquet, row_group_bytes
from bert_jax.data.text.streams import Window, compression, naming_file, open_stream
from bert_jax.data.text.units import Unit

_COPY_BYTES = 1 << 20
_TAR_BLOCK_BYTES = 512


def divide_unit(
    unit: Unit, target_bytes: int, workspace: pathlib.Path
) -> tuple[Unit, ...]:
    """Shares of one unit; see `sources.divide`."""
    path = unit.path
    if compression(path):
        if unit.size_bytes <= 2 * target_bytes:
            return (unit,)
        unit = _unpacked(unit, workspace)
    with naming_file(path):
        if unit.kind == "tar":
            return _divide_archive(unit, target_bytes)
        return _divide_file(unit, target_bytes)


def _unpacked(unit: Unit, workspace: pathlib.Path) -> Unit:
    """The same unit without compression, in the workspace."""
    status = os.stat(unit.path)
    identity = f"{unit.path}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.blake2b(os.fsencode(identity), digest_size=16).hexdigest()
    path = workspace / f"{digest}.unpacked"
    if not path.exists():
        partial = workspace / f"{digest}.partial-{os.getpid()}"
        try:
            workspace.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                for block in _plain_blocks(unit.path):
                    file.write(block)
            os.replace(partial, path)
        except OSError as error:
            raise ValueError(
                f"Cannot unpack {unit.path} to {workspace}: {error}. Make room there, "
                "or unpack it elsewhere and name what is in it."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
    return dataclasses.replace(unit, path=str(path), size_bytes=path.stat().st_size)


def _plain_blocks(path: str) -> Iterator[bytes]:
    with naming_file(path), Window(path) as packed:
        plain = open_stream(packed, path)
        while block := plain.read(_COPY_BYTES):
            yield block


def _divide_file(unit: Unit, target_bytes: int) -> tuple[Unit, ...]:
    if not is_parquet(unit.name):
        length = unit.size_bytes if unit.end is None else unit.end
        return _even_shares(unit, length, target_bytes)
    with Window(unit.path, *(unit.member or ())) as file:
        sizes = row_group_bytes(file, unit.name)
    # Their sizes are those of uncompressed data.
    total = max(sum(sizes), 1)
    ends = [end * unit.size_bytes // total for end in itertools.accumulate(sizes)]
    sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
    runs = _runs(sizes, target_bytes)
    if len(runs) < 2:
        return (unit,)
    return tuple(
        dataclasses.replace(
            unit, size_bytes=sum(sizes[start:end]), start=start, end=end, is_part=True
        )
        for start, end in runs
    )


def _even_shares(unit: Unit, length: int, target_bytes: int) -> tuple[Unit, ...]:
    """Shares of [0, length) bytes of a file or records of TFDS."""
    count = min((unit.size_bytes + target_bytes // 2) // target_bytes, length)
    if count < 2:
        return (unit,)
    bounds = [length * k // count for k in range(count + 1)]
    sizes = [unit.size_bytes * bound // length for bound in bounds]
    return tuple(
        dataclasses.replace(
            unit,
            size_bytes=sizes[k + 1] - sizes[k],
            start=bounds[k],
            end=bounds[k + 1],
            is_part=True,
        )
        for k in range(count)
    )


def _divide_archive(unit: Unit, target_bytes: int) -> tuple[Unit, ...]:
    members = list_members(unit.path, unit.name)
    if not members:
        raise ValueError(f"{unit.name} holds no files; take it out of the source.")
    # A large member is a file to divide; those between are read one after another.
    shares: list[Unit] = []
    between: list[Member] = []
    for member in members:
        if member.end - member.start <= target_bytes or compression(member.name):
            between.append(member)
            continue
        shares += _archive_shares(unit, between, target_bytes)
        between = []
        file = dataclasses.replace(
            unit,
            name=f"{unit.name}/{member.name}",
            size_bytes=member.end - member.start,
            kind="file",
            is_part=True,
            member=(member.start, member.end),
        )
        shares += _divide_file(file, target_bytes)
    return (*shares, *_archive_shares(unit, between, target_bytes))


def _archive_shares(
    unit: Unit, members: Sequence[Member], target_bytes: int
) -> list[Unit]:
    """Runs of members that follow one another."""
    shares = []
    for start, end in _runs([m.end - m.header for m in members], target_bytes):
        first, last = members[start].header, members[end - 1].end
        last = -(-last // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
        shares.append(
            dataclasses.replace(
                unit, size_bytes=last - first, start=first, end=last, is_part=True
            )
        )
    return shares


def _runs(sizes: Sequence[int], target: int) -> list[tuple[int, int]]:
    """Neighbours in runs of about `target`, as [start, end) of their numbers."""
    runs = []
    start = total = 0
    for number, size in enumerate(sizes):
        if total and total + size // 2 > target:
            runs.append((start, number))
            start, total = number, 0
        total += size
    return [*runs, (start, len(sizes))] if sizes else []
