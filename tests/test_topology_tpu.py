"""The real step of BERT-Base, compiled for a TPU slice that is not here."""

import dataclasses
import pathlib

import pytest

from bert_jax.commands.config_files import load_config
from bert_jax.config import MeshConfig, PretrainConfig
from bert_jax.runtime.chips import CHIPS
from bert_jax.topology.compiled import compile_step, needed_bytes
from bert_jax.topology.devices import parse_topology
from bert_jax.topology.roofline import roofline_of

CONFIG = pathlib.Path(__file__).parents[1] / "configs/bert_base.py"
# tests/test_parameters.py; and the table padded to 30,592 rows.
NUM_PARAMETERS = 110_106_428 + 70 * 769


@pytest.fixture(scope="module")
def compiled(libtpu):
    cfg = load_config(str(CONFIG), PretrainConfig).phases[0]
    cfg = dataclasses.replace(cfg, mesh=MeshConfig(data=2, fsdp=2))
    return compile_step(cfg, parse_topology("v5e:2x2"))


@pytest.mark.slow(ci=False)
def test_the_step_fits_and_the_kinds_make_up_the_total(compiled):
    memory = compiled.memory
    assert compiled.fits
    assert memory.limit == CHIPS["v5e"].usable_bytes
    # Half of the parameters, four bytes each, on every device; small ones are whole.
    parameters = 4 * NUM_PARAMETERS / 2
    assert parameters <= memory.parameters <= parameters * 1.1
    # Layouts on a TPU pad small arrays; nothing else is left over.
    assert 0 <= memory.padding < 0.1 * memory.total


@pytest.mark.slow(ci=False)
def test_arithmetic_is_the_useful_one(compiled):
    useful = roofline_of(compiled).useful_flops / 4
    # The compiler may turn tiny products into sums, and nothing is recomputed. Seen: 1.0004.
    assert 0.99 <= compiled.flops / useful < 1.05
    assert compiled.uncounted == ()
    assert 0 < roofline_of(compiled).mfu < 1


@pytest.mark.slow(ci=False)
def test_gradients_travel_along_every_axis_of_the_mesh(compiled):
    spanned = {axis for c in compiled.collectives for axis in c.axes}
    assert spanned == {"data", "fsdp"}
    assert all(c.count > 0 and c.moved_bytes > 0 for c in compiled.collectives)
    # Every device sends the gradients of its parameters at least once, with two bytes
    # each where they are reduced in bfloat16.
    moved = sum(c.moved_bytes for c in compiled.collectives)
    assert moved > 0.5 * compiled.memory.parameters


@pytest.mark.slow(ci=False)
def test_a_step_that_does_not_fit_is_a_result(libtpu):
    cfg = load_config(str(CONFIG), PretrainConfig).phases[0]
    cfg = dataclasses.replace(cfg, batch_size=4 * 4_096)
    step = compile_step(cfg, parse_topology("v5e:2x2"))
    assert not step.fits
    assert step.memory.total > step.memory.limit
    assert step.flops is None
    assert step.collectives == ()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
            "total memory required for HLO temporaries (24.5G) exceeds available HBM "
            "(15.75G). HLO module: jit_step.",
            int(24.5 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 16.50G of 15.75G hbm. Exceeded hbm capacity by "
            "768.00M.",
            int(16.5 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: no number here", None),
        ("INTERNAL: total memory required (1G)", None),
    ],
)
def test_the_compilers_number_is_read(message, expected):
    assert needed_bytes(message) == expected
