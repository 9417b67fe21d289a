"""Advice is the smallest change of each sort that was seen to fit, and nothing else."""

import dataclasses

import pytest

from bert_jax.config import DataConfig, MeshConfig, PretrainConfig
from bert_jax.family import model_config
from bert_jax.runtime.chips import chip_named
from bert_jax.topology.advice import advise
from bert_jax.topology.candidates import Measured
from bert_jax.topology.predict import predict

V5E = chip_named("v5e")
PHASE = PretrainConfig(
    model=model_config("large", compute_dtype="bfloat16", attention="xla"),
    data=DataConfig(sequence_length=512),
    mesh=MeshConfig(slices=1, data=8),
    batch_size=256,
)


class Machine:
    """A compiler whose programs need `factor` times what is predicted to be kept."""

    def __init__(self, limit, factor=1.2):
        self.limit, self.factor, self.asked = limit, factor, []

    def needed(self, phase):
        predicted = predict(phase, phase.mesh, V5E)
        return int(predicted.state_bytes + self.factor * predicted.activation_bytes)

    def __call__(self, phase):
        self.asked.append(phase)
        needed = self.needed(phase)
        fits = needed <= self.limit
        return Measured(needed, self.limit, fits, 1.0 if fits else None)


def advice_of(machine, phase=PHASE, **changes):
    failed = machine(phase)
    assert not failed.fits
    machine.asked.clear()
    settings = {"num_devices": 8, "num_slices": 1, "max_compiles": 4}
    advice = advise(
        phase,
        chip=V5E,
        failed=failed,
        measure=machine,
        tell=lambda line: None,
        **settings | changes,
    )
    return {one.sort: one for one in advice}


def needs(**changes):
    """Memory of `PHASE` with other fields of the model, on the default machine."""
    model = dataclasses.replace(PHASE.model, **changes)
    return Machine(0).needed(dataclasses.replace(PHASE, model=model))


def test_each_sort_of_change_is_the_smallest_that_fits():
    machine = Machine(needs(remat="dots") + 1)
    advice = advice_of(machine)
    assert advice["recompute"].changes == ("model.remat=dots",)
    assert needs(remat="attention") > machine.limit

    (change,) = advice["micro-batches"].changes
    count = int(change.removeprefix("micro_batches="))
    fewer = dataclasses.replace(PHASE, micro_batches=count // 2)
    assert machine.needed(fewer) > machine.limit
    # Another mesh does not keep that much less.
    assert advice["mesh"].reason.endswith("none fits")
    assert "together" not in advice


def test_another_mesh_is_advised_where_the_state_is_too_large():
    machine = Machine(needs() - 2**30)
    advice = advice_of(machine)
    assert advice["mesh"].changes
    assert all(change.startswith("mesh.") for change in advice["mesh"].changes)
    for one in advice.values():
        assert one.measured.fits
        assert one.measured.bytes <= machine.limit


def test_nothing_is_advised_that_was_not_compiled():
    machine = Machine(needs() - 2**30)
    advice = advice_of(machine)
    compiled = {machine.needed(phase) for phase in machine.asked}
    assert {one.measured.bytes for one in advice.values()} <= compiled


def test_a_wrong_prediction_is_corrected_by_the_next_compile():
    machine = Machine(needs(remat="dots"))  # one byte too little for dots
    machine.limit -= 1
    assert advice_of(machine)["recompute"].changes != ("model.remat=dots",)


def test_all_changes_together_where_none_of_them_is_enough():
    machine = Machine(2 * 2**30, factor=1.0)
    advice = advice_of(machine, max_compiles=10)
    single = ("recompute", "micro-batches", "mesh")
    assert all(advice[sort].measured is None for sort in single)
    together = advice["together"]
    assert together.measured.fits
    assert any(change.startswith("mesh.") for change in together.changes)
    assert len(together.changes) > 1


def test_what_was_tried_in_vain_is_said():
    advice = advice_of(Machine(2**20))
    for one in advice.values():
        assert one.measured is None
        assert one.changes == ()
        assert "fits" in one.describe() or "expected" in one.describe()


def test_a_line_says_the_change_its_memory_and_its_cost():
    machine = Machine(needs(remat="dots") + 1)
    line = advice_of(machine)["recompute"].describe()
    limit = f"{machine.limit / 2**30:.2f} GiB"
    assert line.startswith(
        f"recompute: model.remat=dots  (fits: {limit[:-4]} of {limit}"
    )
    assert "predicted" in line


def test_one_row_a_device_leaves_no_micro_batches():
    phase = dataclasses.replace(PHASE, batch_size=8)
    machine = Machine(Machine(0).needed(phase) - 1)
    advice = advice_of(machine, phase)
    assert advice["micro-batches"].reason == "there is nothing left to change"


@pytest.mark.parametrize("slices", [1, 2])
def test_meshes_of_advice_lay_out_the_machine(slices):
    mesh = MeshConfig(data=-1)
    phase = dataclasses.replace(PHASE, mesh=mesh)
    laid_out = dataclasses.replace(
        phase, mesh=MeshConfig(slices=slices, data=8 // slices)
    )
    machine = Machine(int(0.6 * Machine(0).needed(laid_out)))
    failed = machine(laid_out)
    machine.asked.clear()
    advise(
        phase,
        num_devices=8,
        num_slices=slices,
        chip=V5E,
        failed=failed,
        measure=machine,
        tell=lambda line: None,
    )
    assert machine.asked
    for asked in machine.asked:
        used = asked.mesh
        assert used.slices == slices
        assert used.slices * used.data * used.fsdp * used.sequence * used.tensor == 8
