import dataclasses

import jax
import pytest

from bert_jax.runtime.chips import CHIPS, chip_named, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
    ],
)
def test_chips_are_found_by_what_jax_calls_them_and_by_name(kind, name):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.name == name
    assert chip_named(name) is chip


@pytest.mark.parametrize(
    "kind", ["cpu", "TPU v5 litepod", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", ""]
)
def test_what_the_table_does_not_know_is_not_guessed(kind):
    assert chip_of(kind) is None
    assert chip_named(kind) is None


def test_this_machines_processor_has_no_peak():
    assert chip_of(jax.devices()[0].device_kind) is None


def test_no_two_chips_share_a_name_or_a_kind():
    names = [chip.name for chip in CHIPS]
    kinds = [kind for chip in CHIPS for kind in chip.device_kinds]
    assert len(set(names)) == len(names)
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_every_figure_is_of_its_unit(chip):
    """Terabytes and gigabits in the wrong place are off by these margins."""
    assert 1e14 < chip.peak_flops < 1e16
    assert 15e9 < chip.hbm_bytes < 300e9
    assert chip.usable_bytes is None or (
        0.9 * chip.hbm_bytes < chip.usable_bytes < chip.hbm_bytes
    )
    assert 5e11 < chip.hbm_bytes_per_sec < 1e13
    assert 1e9 < chip.network_bytes_per_sec < chip.links_bytes_per_sec < 1e12
    assert chip.source.startswith("https://")
    # A FLOP takes less memory traffic than a byte on all of them, by far.
    assert 100 < chip.peak_flops / chip.hbm_bytes_per_sec < 1000


def test_two_devices_share_the_figures_of_their_chip():
    ironwood = chip_named("tpu7x")
    assert ironwood.device_peak_flops == 1153.5e12
    assert ironwood.device_usable_bytes == int(94.74 * 2**30)
    whole = dataclasses.replace(ironwood, devices_per_chip=1)
    assert whole.device_peak_flops == 2307e12
    assert chip_named("h200").device_usable_bytes is None
