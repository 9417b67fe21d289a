"""Times of a step from its work and the chip's rates, worked out by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from bert_jax.config import DataConfig, MeshConfig, PretrainConfig
from bert_jax.runtime.chips import chip_named
from bert_jax.topology import estimate as module
from bert_jax.topology.collectives import Collective
from bert_jax.topology.compiled import CompiledStep, MemoryByKind
from bert_jax.topology.devices import Topology, devices_of
from bert_jax.topology.estimate import estimate, links_along, useful_flops

CHIP = chip_named("v5e")
MEMORY = MemoryByKind(
    parameters=1, optimizer=1, batch=1, temporaries=1, code=1, total=5, limit=10
)


def reduction(axes, group_size, megabytes):
    payload = int(megabytes * 1e6)
    return Collective(
        kind="all-reduce",
        axes=axes,
        whole_axes=True,
        group_size=group_size,
        dtype="f32",
        count=1,
        payload_bytes=payload,
        moved_bytes=round(2 * (group_size - 1) / group_size * payload),
    )


@pytest.fixture
def step():
    return CompiledStep(
        cfg=PretrainConfig(
            data=DataConfig(sequence_length=128),
            mesh=MeshConfig(data=4, fsdp=4),
            batch_size=256,
        ),
        topology=Topology("v5e", (4, 4)),
        mesh={"slice": 1, "data": 4, "fsdp": 4, "sequence": 1, "tensor": 1},
        memory=MEMORY,
        fits=True,
        collectives=(),
        flops=197e9,
        hbm_bytes=8.19e9,
        cycles=None,
        uncounted=(),
        compile_secs=1.0,
        program=None,
    )


def test_the_fastest_is_the_widest_roof_and_the_slowest_their_sum(libtpu, step):
    times = estimate(step)
    assert times.compute == pytest.approx(1e-3)
    assert times.memory == pytest.approx(10e-3)
    assert times.fastest == times.memory
    assert times.slowest == pytest.approx(11e-3)
    assert times.rows_per_sec == pytest.approx((256 / 11e-3, 256 / 10e-3))
    assert times.tokens_per_sec[1] == pytest.approx(128 * 256 / 10e-3)
    assert times.hfu[1] == pytest.approx(0.1)
    useful = useful_flops(step.cfg)
    assert times.mfu[1] == pytest.approx(useful / (16 * 197e12 * 10e-3))


def test_the_compilers_cycles_are_the_slowest_where_it_says_them(libtpu, step):
    cycles = 2e-2 * 197e12 / module._FLOPS_A_CYCLE["v5e"]
    times = estimate(dataclasses.replace(step, cycles=cycles))
    assert times.cycles == pytest.approx(2e-2)
    assert times.slowest == pytest.approx(2e-2)


def test_collectives_take_the_links_along_their_axes(libtpu, step):
    step = dataclasses.replace(
        step,
        collectives=(reduction(("data",), 4, 400), reduction(("fsdp",), 4, 800)),
    )
    times = estimate(step)
    by_axes = {link.axes: link for link in times.links}
    # 600 and 1,200 MB on one link of 50 GB/s.
    assert by_axes["data",].worst == pytest.approx(12e-3)
    assert by_axes["fsdp",].worst == pytest.approx(24e-3)
    # Sides of four chips end; they close to rings from sixteen on.
    assert by_axes["fsdp",].best == pytest.approx(24e-3)
    assert times.fastest == pytest.approx(24e-3)
    assert times.slowest == pytest.approx(11e-3 + 36e-3)


def test_slices_are_joined_by_the_network(libtpu, step):
    mesh = {**step.mesh, "slice": 2}
    step = dataclasses.replace(
        step,
        topology=Topology("v5e", (4, 4), 2),
        mesh=mesh,
        collectives=(reduction(("slice",), 2, 100),),
    )
    (link,) = estimate(step).links
    assert link.network == pytest.approx(100e6 / CHIP.network_bytes_per_sec)
    assert link.best == link.worst == link.network
    assert any("between slices" in line for line in estimate(step).assumptions)


@pytest.mark.parametrize(
    ("name", "shape", "axes", "expected"),
    [
        # All of a side of sixteen closes to a ring: both directions of it.
        ("v6e", (16, 16), ("data",), 2),
        ("v6e", (16, 16), ("data", "fsdp"), 4),
        ("v5e", (4, 4), ("data", "fsdp"), 2),
        ("v5e", (4, 4), (), 0),
    ],
)
def test_links_follow_the_sides_of_the_slice(libtpu, name, shape, axes, expected):
    devices = np.array(devices_of(Topology(name, shape)), dtype=object)
    by_place = sorted(devices, key=lambda device: tuple(device.coords))
    mesh = jax.sharding.Mesh(np.array(by_place).reshape(shape), ("data", "fsdp"))
    assert links_along(axes, mesh, shape, chip_named(name)) == expected


def test_nothing_is_estimated_of_a_cpu_or_of_what_does_not_fit(step):
    assert estimate(dataclasses.replace(step, topology=Topology("cpu", (8,)))) is None
    assert estimate(dataclasses.replace(step, flops=None)) is None
