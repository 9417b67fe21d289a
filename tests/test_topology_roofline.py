"""The roofline of a step from its work and the chip's rates, worked out by hand."""

import dataclasses

import pytest

from bert_jax.config import DataConfig, MeshConfig, PretrainConfig
from bert_jax.topology.collectives import Collective
from bert_jax.topology.compiled import CompiledStep, MemoryByKind
from bert_jax.topology.devices import Topology
from bert_jax.topology.roofline import roofline_of
from bert_jax.topology.show import show_step, show_variant, show_variants_header

GIB = 2**30


def all_reduce(axis, megabytes):
    """One all-reduce in which each device sends so many megabytes."""
    return Collective(
        kind="all-reduce",
        axes=(axis,),
        whole_axes=True,
        group_size=4,
        dtype="f32",
        count=1,
        payload_bytes=int(megabytes * 1e6 / 1.5),
        moved_bytes=int(megabytes * 1e6),
    )


@pytest.fixture
def step():
    """A step on 16 chips v5e with 1 ms of arithmetic and 10 ms of memory traffic."""
    return CompiledStep(
        cfg=PretrainConfig(
            data=DataConfig(sequence_length=128),
            mesh=MeshConfig(data=4, fsdp=4),
            batch_size=256,
        ),
        topology=Topology("v5e", (4, 4)),
        mesh={"slice": 1, "data": 4, "fsdp": 4, "sequence": 1, "tensor": 1},
        memory=MemoryByKind(
            parameters=GIB,
            optimizer=2 * GIB,
            batch=0,
            temporaries=4 * GIB,
            code=0,
            total=8 * GIB,
            limit=16 * GIB,
        ),
        compile_secs=1.0,
        program=None,
        flops=197e9,
        hbm_bytes=8.19e9,
    )


def test_the_longest_roof_is_the_least_time(step):
    roofline = roofline_of(step)
    secs = {roof.name: roof.secs for roof in roofline.roofs}
    assert secs["matrix products"] == pytest.approx(1e-3)
    assert secs["main memory"] == pytest.approx(10e-3)
    assert roofline.secs == pytest.approx(10e-3)
    assert roofline.bound_by == "main memory"
    assert roofline.rows_per_sec == pytest.approx(25_600)
    assert roofline.tokens_per_sec == pytest.approx(25_600 * 128)


def test_the_mfu_is_the_useful_share_of_all_chips_at_their_peak(step):
    roofline = roofline_of(step)
    # BERT-base: six FLOPs for each of about 85 million weights and each token, as the
    # field reckons; attention and heads add a few per cent.
    assert roofline.useful_flops == pytest.approx(6 * 256 * 128 * 85e6, rel=0.15)
    assert roofline.mfu == pytest.approx(roofline.useful_flops / (16 * 197e12 * 10e-3))


def test_collectives_use_all_links_of_a_slice_or_the_network_between_slices(step):
    sent = (all_reduce("data", 4_000), all_reduce("slice", 100))
    roofline = roofline_of(dataclasses.replace(step, collectives=sent))
    secs = {roof.name: roof.secs for roof in roofline.roofs}
    # Four links of 50 GB/s; 3.125 GB/s of the network for each chip.
    assert secs["links in a slice"] == pytest.approx(20e-3)
    assert secs["network between slices"] == pytest.approx(32e-3)
    assert roofline.bound_by == "network between slices"


def test_assumptions_name_rates_and_what_is_not_counted(step):
    step = dataclasses.replace(step, uncounted=("silent_kernel",))
    text = " ".join(roofline_of(step).assumptions)
    assert "197 TFLOP/s" in text
    assert "819 GB/s" in text
    assert "Not counted" in text
    assert "silent_kernel" in text


def test_there_is_no_roofline_for_a_cpu_or_for_a_step_that_does_not_fit(step):
    cpu = dataclasses.replace(step, topology=Topology("cpu", (16,)))
    assert roofline_of(cpu) is None
    assert roofline_of(dataclasses.replace(step, flops=None)) is None


def test_a_step_is_shown_with_its_least_time_and_its_memory(step):
    text = "\n".join(show_step(step))
    assert "v5e:4x4: 16 devices, mesh data=4 fsdp=4" in text
    assert "FITS: 50.0% of the 16.00 GiB" in text
    # 8 GiB less 1 + 2 + 4.
    assert "padding of layouts, metrics        1.00 GiB" in text
    assert "at least 10.00 ms, bound by main memory: at most 25,600 rows/s" in text


def test_a_step_that_does_not_fit_is_shown_with_what_is_missing(step):
    memory = dataclasses.replace(step.memory, total=20 * GIB, temporaries=None)
    too_large = dataclasses.replace(step, memory=memory, flops=None)
    assert not too_large.fits
    text = "\n".join(show_step(too_large))
    assert "DOES NOT FIT: 4.00 GiB more than the 16.00 GiB" in text
    assert "at least" not in text
    cells = show_variant(too_large, number=2).split()
    assert cells == ["2", "none", "1", "NO", "20.00", "GiB", "-", "-", "-"]


def test_a_row_of_the_table_of_variants_stands_under_its_headings(step):
    header, row = show_variants_header(), show_variant(step)
    for heading, value in (("fits", "yes"), ("bound by", "main memory")):
        assert header.index(heading) == row.index(value)
    for heading, value in (("memory", "8.00 GiB"), ("temporaries", "4.00 GiB")):
        assert header.index(heading) + len(heading) == row.index(value) + len(value)
