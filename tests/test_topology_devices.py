"""Machines by name: what is read, what is refused, what libtpu gives."""

import importlib.util
import os

import jax
import numpy as np
import pytest

from bert_jax.config import MeshConfig
from bert_jax.topology import devices
from bert_jax.topology.devices import (
    Topology,
    devices_of,
    parse_topology,
)
from bert_jax.train.mesh import make_mesh


@pytest.mark.parametrize(
    ("text", "expected", "num_devices"),
    [
        ("v5e:4x4", Topology("v5e", (4, 4)), 16),
        ("v5e:4x4x2slices", Topology("v5e", (4, 4), 2), 32),
        ("v4:2x2x2x1slice", Topology("v4", (2, 2, 2)), 8),
        ("v5p:4x4x8", Topology("v5p", (4, 4, 8)), 128),
        ("v6e:16x16", Topology("v6e", (16, 16)), 256),
        ("cpu:8", Topology("cpu", (8,)), 8),
    ],
)
def test_names_are_read_and_written(text, expected, num_devices):
    topology = parse_topology(text)
    assert topology == expected
    assert topology.num_devices == num_devices
    assert parse_topology(str(topology)) == topology


def test_slices_may_be_given_apart_but_not_twice():
    assert parse_topology("v5e:2x4", 3) == Topology("v5e", (2, 4), 3)
    with pytest.raises(ValueError, match="both give the number of slices"):
        parse_topology("v5e:2x4x2slices", 3)


@pytest.mark.parametrize(
    "text",
    [
        *("v5e", "v5e:", "v5e:4", "v5e:3x3", "v5e:4x4x4", "v5e:32x32", "v3:2x2"),
        *(
            "v5p:2x2",
            "v5p:8x4x4",
            "v5p:4x4x6",
            "v4:32x32x32",
            "cpu:0",
            "cpu:2x2",
            "cpu:4097",
        ),
        *("h100:8", "4x4"),
    ],
)
def test_other_names_are_refused_and_the_known_ones_listed(text):
    with pytest.raises(ValueError, match=rf"--topology {text}.*4x8.*2x4x4.*cpu:8"):
        parse_topology(text)


def test_no_slices_are_an_error():
    with pytest.raises(ValueError, match="0 slices"):
        parse_topology("v5e:2x2", 0)


def test_cpu_devices_are_those_of_this_process():
    started = jax.devices()
    assert devices_of(parse_topology("cpu:4")) == started[:4]
    with pytest.raises(ValueError, match=r"cpu:9.*8 CPU devices"):
        devices_of(parse_topology("cpu:9"))


def test_a_tpu_without_libtpu_is_an_error_that_names_the_extra(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        devices.importlib.util,
        "find_spec",
        lambda name: None if name == "libtpu" else real(name),
    )
    with pytest.raises(ValueError, match=r"bert_jax\[aot\]"):
        devices_of(parse_topology("v5e:4x4"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("v4:2x2x2", "TPU v4"),
        ("v5p:2x2x2", "TPU v5"),
        ("v6e:16x16", "TPU v6 lite"),
        ("v5e:2x2x3slices", "TPU v5 lite"),
    ],
)
def test_libtpu_describes_the_chips(libtpu, text, kind, capfd):
    before = dict(os.environ)
    topology = parse_topology(text)
    found = devices_of(topology)
    assert len(found) == topology.num_devices
    assert found[0].platform == "tpu"
    assert topology.chip is not None
    assert kind == found[0].device_kind
    assert kind in topology.chip.device_kinds
    if topology.slices > 1:
        assert {device.slice_index for device in found} == {0, 1, 2}
    # The environment is as it was, and libtpu does not warn that there is no TPU.
    assert dict(os.environ) == before
    assert "accelerator type" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "axes", [{"tensor": 4}, {"fsdp": 8}, {"fsdp": 32, "tensor": 2}]
)
def test_an_axis_may_be_a_part_of_a_side_of_the_slice(libtpu, axes):
    found = devices_of(parse_topology("v6e:16x16"))
    mesh = make_mesh(MeshConfig(**axes), found)
    assert {name: mesh.shape[name] for name in axes} == axes
    assert len(set(mesh.devices.flat)) == 256
    # The chips that share the innermost axis are neighbours.
    size = mesh.shape["tensor"]
    for group in mesh.devices.reshape(-1, size):
        xy = np.array([device.coords[:2] for device in group])
        assert np.ptp(xy, axis=0).max() < size
