"""Finds the mesh axes of a collective from its groups of devices in a compiled program."""

import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

Groups = frozenset[frozenset[int]]


def replica_groups(attributes: str, num_devices: int) -> Groups:
    """Reads `replica_groups=` of an HLO instruction in each form that XLA writes.

    - A list {{0,1},{2,3}}; the empty list means one group of all devices.
    - [4,2]<=[2,4]T(1,0): the numbers from 0 on as an array [2,4], transposed by (1,0), and
      reshaped to 4 groups of 2.
    - mesh['a'=4,'b'=4] {'b'}: all devices along an axis of a mesh. {'b':(2)2} is a part of
      an axis, and device_ids= gives another order of the devices.

    Raises:
        ValueError: there are no groups, or they have an unknown form.
    """
    if match := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes):
        listed = re.findall(r"\{([\d,]+)\}", match[1])
        if not listed:
            return frozenset({frozenset(range(num_devices))})
        return frozenset(
            frozenset(int(n) for n in group.split(",")) for group in listed
        )
    if match := re.search(
        r"replica_groups=(\[[^ ]*?\](?:T\([\d,]+\))?)(?:,|$)", attributes
    ):
        return _as_groups(_iota(match[1]))
    if match := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\)?)\))? \{([^}]*)\}",
        attributes,
    ):
        return _as_groups(_of_axes(match[1], match[2], match[3]))
    raise ValueError(f"replica groups in an unknown form: {attributes[:200]!r}")


def axes_of(groups: Groups, mesh: Mapping[str, int]) -> tuple[tuple[str, ...], bool]:
    """The mesh axes that groups of devices span.

    Args:
        groups: positions in the flattened mesh.
        mesh: devices along each axis, outermost first.

    Returns:
        The fewest axes that contain the groups, outermost first and without axes of one
        device; and whether the groups span these axes wholly or only a part of them.

    Raises:
        ValueError: a group has a device that the mesh has not.
    """
    wide = [name for name, size in mesh.items() if size > 1]
    for count in range(len(wide) + 1):
        for names in itertools.combinations(wide, count):
            spanned = groups_along(names, mesh)
            if groups == spanned:
                return names, True
            if all(any(group <= whole for whole in spanned) for group in groups):
                return names, False
    raise ValueError(
        f"groups {sorted(map(sorted, groups))} exceed the mesh {dict(mesh)}."
    )


def groups_along(names: tuple[str, ...], mesh: Mapping[str, int]) -> Groups:
    """The groups of devices that differ only in their positions along `names`."""
    places = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
    inside = [n for n, name in enumerate(mesh) if name in names]
    outside = [n for n, name in enumerate(mesh) if name not in names]
    size = math.prod(mesh[name] for name in names)
    return _as_groups(places.transpose(*outside, *inside).reshape(-1, size))


def _as_groups(table: np.ndarray) -> Groups:
    return frozenset(frozenset(int(n) for n in row) for row in table)


def _iota(text: str) -> np.ndarray:
    """Reads [4,2]<=[2,4]T(1,0), or [4,2] alone, which takes the numbers in order."""
    shape, _, source = text.partition("<=")
    dims = _numbers(shape)
    if not source:
        return np.arange(math.prod(dims)).reshape(dims)
    reshape, _, order = source.partition("T")
    numbers = np.arange(math.prod(dims)).reshape(_numbers(reshape))
    if order:
        numbers = numbers.transpose(_numbers(order))
    return numbers.reshape(dims)


def _of_axes(mesh: str, device_ids: str | None, axes: str) -> np.ndarray:
    sizes = {name: int(n) for name, n in re.findall(r"'?([\w\-.]+)'?=(\d+)", mesh)}
    numbers = np.arange(math.prod(sizes.values()))
    if device_ids is not None and device_ids.startswith("["):
        reshape, _, order = device_ids.partition("T")
        numbers = numbers.reshape(_numbers(reshape))
        numbers = numbers.transpose(_numbers(order)) if order else numbers
    elif device_ids is not None:
        numbers = np.asarray(_numbers(device_ids))
    chosen = {
        name: (int(before or 1), int(part or sizes[name]))
        for name, before, part in re.findall(
            r"'?([\w\-.]+)'?(?::\((\d+)\)(\d+))?", axes
        )
    }
    # Each axis becomes three dimensions; the chosen part of it is the middle one.
    dims: list[int] = []
    inside: list[int] = []
    for name, size in sizes.items():
        before, part = chosen.get(name, (size, 1))
        inside += [len(dims) + 1] if name in chosen else []
        dims += [before, part, size // (before * part)]
    outside = [n for n in range(len(dims)) if n not in inside]
    group = math.prod(dims[n] for n in inside)
    return numbers.reshape(dims).transpose(*outside, *inside).reshape(-1, group)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))
