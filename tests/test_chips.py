import jax
import pytest

from bert_jax.runtime.chips import CHIPS, PEAK_FLOPS


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_chip(kind, name):
    assert kind in CHIPS[name].device_kinds
    assert PEAK_FLOPS[kind] == CHIPS[name].peak_flops


@pytest.mark.parametrize(
    "kind", ["cpu", "TPU v5 litepod", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", ""]
)
def test_what_the_table_does_not_know_is_not_guessed(kind):
    assert kind not in PEAK_FLOPS


def test_this_machines_processor_has_no_peak():
    assert jax.devices()[0].device_kind not in PEAK_FLOPS


def test_no_two_chips_share_a_kind():
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)
    assert PEAK_FLOPS.keys() >= set(kinds)


def test_every_peak_is_of_its_unit():
    """Teraflops in the wrong place are off by these margins."""
    assert all(1e14 < peak < 1e16 for peak in PEAK_FLOPS.values())


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_every_figure_is_of_its_unit(chip):
    """Terabytes and gigabits in the wrong place are off by these margins."""
    assert 15e9 < chip.usable_bytes < 300e9
    assert 5e11 < chip.hbm_bytes_per_sec < 1e13
    assert 1e9 < chip.network_bytes_per_sec < chip.links_bytes_per_sec < 1e12
    assert chip.source.startswith("https://")
    # A FLOP takes less memory traffic than a byte on all of them, by far.
    assert 100 < chip.peak_flops / chip.hbm_bytes_per_sec < 1000
