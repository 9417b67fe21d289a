"""Every collective of a compiled step: what travels, how often and along which axes."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bert_jax.topology.groups import axes_of, replica_groups
from bert_jax.topology.hlo import Array, Instruction, Module
from bert_jax.train.sharding import MESH_AXIS_NAMES

SLICE_AXIS = MESH_AXIS_NAMES[0]
_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)
# The TPU compiler repeats a collective in every operation that hides a part of it; the
# one that starts it is the one that counts.
_GOES_ON = re.compile(r'custom_call_target="AsyncCollectiveDone"')
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_STARTS = re.compile(r'custom_call_target="AsyncCollectiveStart"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind along the same axes, of one step."""

    kind: str
    axes: tuple[str, ...]
    """Mesh axes, outermost first; none where every device talks to itself only."""
    whole_axes: bool
    """False: groups are parts of these axes."""
    group_size: int
    dtype: str
    """Of most of the bytes."""
    count: int
    """Executions in one step, rounds of loops included."""
    payload_bytes: int
    """Of one device's arrays (the full ones of gathers and scatters), all executions."""
    moved_bytes: int
    """What one device sends in a ring, all executions; see `ring_bytes`."""


class _Found(NamedTuple):
    kind: str
    axes: tuple[str, ...]
    whole_axes: bool
    group_size: int
    dtype: str
    payload: int
    times: int


def ring_bytes(kind: str, payload: float, group_size: int) -> float:
    """What one device sends for one collective.

    With n devices in a group and p bytes: gathers and scatters (n - 1) / n p with p the
    full array; an all-reduce is one of each, twice that; all-to-all (n - 1) / n p; a
    permute or broadcast p.

    Source: Thakur et al. 2005, "Optimization of Collective Communication Operations".
    """
    if group_size == 1:
        return 0.0
    share = (group_size - 1) / group_size
    if kind == "all-reduce":
        return 2.0 * share * payload
    if kind in ("all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"):
        return share * payload
    return float(payload)


def collectives_of(module: Module, mesh: Mapping[str, int]) -> tuple[Collective, ...]:
    """The collectives of a compiled step, those that move most first.

    Args:
        mesh: devices along each axis, outermost first: the order of the program's
            devices.
    """
    together: dict[tuple, list[_Found]] = collections.defaultdict(list)
    for found in _found(module, mesh):
        key = (found.kind, found.axes, found.whole_axes, found.group_size, found.dtype)
        together[key].append(found)
    result = [
        Collective(
            kind=kind,
            axes=axes,
            whole_axes=whole,
            group_size=size,
            dtype=dtype,
            count=sum(f.times for f in items),
            payload_bytes=sum(f.payload * f.times for f in items),
            moved_bytes=round(
                sum(ring_bytes(kind, f.payload, size) * f.times for f in items)
            ),
        )
        for (kind, axes, whole, size, dtype), items in together.items()
    ]
    return tuple(sorted(result, key=lambda c: (-c.moved_bytes, c.kind, c.axes)))


def _found(module: Module, mesh: Mapping[str, int]) -> Iterator[_Found]:
    for name, times in module.executed():
        instructions = module.computations[name]
        if _only_goes_on(name, instructions):
            continue
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            between = _BETWEEN_SLICES.search(instruction.attributes)
            if kind not in _KINDS and (between is None or kind != "send"):
                continue
            operands = tuple(
                array
                for operand in instruction.operands
                for array in module.named(name)[operand].arrays
            )
            axes: tuple[str, ...]
            if between is not None:
                kind = between[1].lower().replace("_", "-")
                axes, whole, size = (SLICE_AXIS,), True, mesh[SLICE_AXIS]
            else:
                axes, whole, size = _along(kind, instruction.attributes, mesh)
            arrays = _payload(kind, instruction, operands)
            if "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            by_type: dict[str, int] = collections.Counter()
            for array in arrays:
                by_type[array.dtype] += array.num_bytes
            yield _Found(
                kind,
                axes,
                whole,
                size,
                max(by_type, key=lambda dtype: by_type[dtype]),
                sum(by_type.values()),
                round(times),
            )


def _along(
    kind: str, attributes: str, mesh: Mapping[str, int]
) -> tuple[tuple[str, ...], bool, int]:
    """The axes, whether whole ones, and the devices of a group."""
    num_devices = math.prod(mesh.values())
    if kind == "collective-permute":
        text = attributes.partition("source_target_pairs=")[2].partition("}}")[0] + "}"
        pairs = re.findall(r"\{(\d+),(\d+)\}", text)
        groups = frozenset(frozenset((int(a), int(b))) for a, b in pairs)
    else:
        groups = replica_groups(attributes, num_devices)
    in_slice = num_devices // mesh.get(SLICE_AXIS, 1)
    if frozenset().union(*groups) <= frozenset(range(in_slice)):
        # The TPU compiler numbers the devices of a slice, alike in every slice, and
        # hands over to the network what goes between them.
        mesh = {name: size for name, size in mesh.items() if name != SLICE_AXIS}
    axes, whole = axes_of(groups, mesh)
    size = max(len(group) for group in groups)
    return axes, whole or kind == "collective-permute", size


def _only_goes_on(name: str, instructions: tuple[Instruction, ...]) -> bool:
    if any(_STARTS.search(i.attributes) for i in instructions):
        return False
    return name.startswith("async_collective_fusion") or any(
        _GOES_ON.search(i.attributes) for i in instructions
    )


def _payload(
    kind: str, instruction: Instruction, operands: tuple[Array, ...]
) -> tuple[Array, ...]:
    """The full arrays: what is gathered, or what is reduced, scattered or sent."""
    if kind != "all-gather":
        return operands
    if instruction.opcode == "all-gather":
        return instruction.arrays
    # The start returns its operands, and then the results.
    return instruction.arrays[len(operands) :][: len(operands)]
