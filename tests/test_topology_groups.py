"""Groups of devices as XLA writes them, and the mesh axes that they span."""

import pytest

from bert_jax.topology.groups import axes_of, groups_along, replica_groups

MESH = {"slice": 1, "data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}


def listed(groups):
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}, x=1", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("{}, use_global_device_ids=true", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[2,4]<=[8], x=1", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0), x=1", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        # 2 x 2 x 2, the middle axis last: pairs that differ by 2.
        ("[4,2]<=[2,2,2]T(0,2,1)", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}, x=1", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'a','b'}, x=1", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        # The outer half of an axis, and the inner.
        ("mesh['a'=2,'b'=4] {'b':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (
            "mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}",
            [[0, 1], [2, 3], [4, 5], [6, 7]],
        ),
        (
            "mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'b'}",
            [[0, 1, 2, 3], [4, 5, 6, 7]],
        ),
    ],
)
def test_each_form_of_groups_is_read(written, expected):
    assert listed(replica_groups(f"replica_groups={written}", 8)) == expected


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match=r"unknown form.*replica_groups=<0,1>"):
        replica_groups("replica_groups=<0,1>", 8)


@pytest.mark.parametrize(
    ("groups", "axes", "whole"),
    [
        ([[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",), True),
        ([[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",), True),
        ([[0, 4], [1, 5], [2, 6], [3, 7]], ("data",), True),
        ([[0, 2, 4, 6], [1, 3, 5, 7]], ("data", "fsdp"), True),
        ([[0, 1, 4, 5], [2, 3, 6, 7]], ("data", "tensor"), True),
        ([[0, 1, 2, 3, 4, 5, 6, 7]], ("data", "fsdp", "tensor"), True),
        ([[n] for n in range(8)], (), True),
        # One pair only, and a diagonal: parts of axes.
        ([[0, 1]], ("tensor",), False),
        ([[0, 3], [1, 2]], ("fsdp", "tensor"), False),
    ],
)
def test_the_axes_of_groups_are_found(groups, axes, whole):
    found = frozenset(frozenset(group) for group in groups)
    assert axes_of(found, MESH) == (axes, whole)


def test_groups_along_no_axis_are_single_devices():
    assert listed(groups_along((), MESH)) == [[n] for n in range(8)]


def test_devices_outside_the_mesh_are_an_error():
    with pytest.raises(ValueError, match="exceed the mesh"):
        axes_of(frozenset({frozenset({0, 9})}), MESH)
