"""Finds the collectives of a compiled step: what is sent, how often, along which mesh axes."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from bert_jax.topology.groups import axes_of, replica_groups
from bert_jax.topology.hlo import Module
from bert_jax.topology.instructions import Array, Instruction
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
# The TPU compiler repeats a collective in every operation that runs beside a part of it.
# Only the operation that starts the collective counts.
_GOES_ON = re.compile(r'custom_call_target="AsyncCollectiveDone"')
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_STARTS = re.compile(r'custom_call_target="AsyncCollectiveStart"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind and type along the same axes, in one step."""

    kind: str
    axes: tuple[str, ...]
    """Mesh axes, outermost first; none where every device only sends to itself."""
    whole_axes: bool
    """False where the groups of devices span only a part of these axes."""
    group_size: int
    dtype: str
    """Type of most of the bytes."""
    count: int
    """Executions in one step, with every round of a loop."""
    payload_bytes: int
    """Size of the arrays on one device, summed over all executions. For a gather or a
    scatter it is the full array, not the device's part."""
    moved_bytes: int
    """What one device sends in a ring, summed over all executions; see `ring_bytes`."""


def ring_bytes(kind: str, payload: float, group_size: int) -> float:
    """The bytes that one device sends for one collective.

    With n devices in a group and an array of p bytes, a gather, a scatter or an all-to-all
    sends (n - 1) / n p, where p is the full array. An all-reduce is a scatter and a gather,
    so it sends twice that. A permute or a broadcast sends p.

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
    """The collectives of a compiled step, those that send the most bytes first.

    Args:
        mesh: devices along each axis, outermost first, in which order the program numbers
            its devices.
    """
    totals: dict[tuple[Any, ...], list[float]] = {}
    for name, times in module.executed():
        instructions = module.computations[name]
        if _only_goes_on(name, instructions):
            continue
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            between = _BETWEEN_SLICES.search(instruction.attributes)
            if kind not in _KINDS and (between is None or kind != "send"):
                continue
            operands = [module.named(name)[operand] for operand in instruction.operands]
            axes: tuple[str, ...]
            if between is not None:
                kind = between[1].lower().replace("_", "-")
                axes, whole, size = (SLICE_AXIS,), True, mesh[SLICE_AXIS]
            else:
                axes, whole, size = _along(kind, instruction.attributes, mesh)
            by_type: dict[str, int] = collections.Counter()
            for array in _payload(kind, instruction, operands):
                by_type[array.dtype] += array.num_bytes
            if "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            dtype = max(by_type, key=lambda dtype: by_type[dtype])
            payload = sum(by_type.values())
            total = totals.setdefault((kind, axes, whole, size, dtype), [0.0, 0.0, 0.0])
            total[0] += times
            total[1] += times * payload
            total[2] += times * ring_bytes(kind, payload, size)
    found = (Collective(*key, *map(round, total)) for key, total in totals.items())
    return tuple(sorted(found, key=lambda c: (-c.moved_bytes, c.kind, c.axes)))


def _along(
    kind: str, attributes: str, mesh: Mapping[str, int]
) -> tuple[tuple[str, ...], bool, int]:
    """The axes of a collective, whether it spans all of them, and the size of a group."""
    num_devices = math.prod(mesh.values())
    if kind == "collective-permute":
        text = attributes.partition("source_target_pairs=")[2].partition("}}")[0] + "}"
        pairs = re.findall(r"\{(\d+),(\d+)\}", text)
        groups = frozenset(frozenset((int(a), int(b))) for a, b in pairs)
    else:
        groups = replica_groups(attributes, num_devices)
    in_slice = num_devices // mesh.get(SLICE_AXIS, 1)
    if frozenset().union(*groups) <= frozenset(range(in_slice)):
        # The TPU compiler numbers the devices within a slice, alike in every slice. What
        # travels between slices is not here but in a `send` to the network.
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
    kind: str, instruction: Instruction, operands: list[Instruction]
) -> tuple[Array, ...]:
    """The full arrays: the result of a gather, the operands of all other collectives."""
    given = tuple(array for operand in operands for array in operand.arrays)
    if kind != "all-gather":
        return given
    if instruction.opcode == "all-gather":
        return instruction.arrays
    # An all-gather-start returns its operands, and then the results.
    return instruction.arrays[len(given) :][: len(given)]
