"""The search finds the fastest layout that fits, with few compiles, and goes on."""

import dataclasses
import json
import pathlib

import jax
import pytest
from planned_runs import (
    MAY_CHANGE,
    RUN,
    V5E,
    Machine,
    all_layouts,
    fastest,
    quiet,
)

from bert_jax.config import MeshConfig, PhaseConfig
from bert_jax.config_json import to_json
from bert_jax.model import pretraining
from bert_jax.topology import remembered
from bert_jax.topology.choices import (
    choice_of,
    kernels_of,
    meshes,
    micro_batch_counts,
)
from bert_jax.topology.plan import plan
from bert_jax.topology.predict import count_parameters, predict
from bert_jax.topology.remembered import Remembered
from bert_jax.topology.search import search
from bert_jax.train import sharding
from bert_jax.train.mesh import make_mesh


@pytest.mark.parametrize(
    ("limit", "memory", "says_bytes"),
    [(2**26, 0.4, True), (2**27, 2.5, False), (2**28, 2.5, True)],
)
def test_the_fastest_that_fits_is_found_with_few_compiles(limit, memory, says_bytes):
    machine = Machine(limit, memory=memory, says_bytes=says_bytes)
    expected = fastest(RUN, Machine(limit, memory=memory))
    found = search(RUN, all_layouts(), V5E, limit, machine, max_compiles=60, tell=quiet)
    assert found.complete
    assert found.best.seconds == pytest.approx(expected, rel=1e-9)
    assert len(machine.asked) < found.num_choices / 20


def test_more_micro_batches_are_tried_in_the_phase_that_needs_them():
    cfg = dataclasses.replace(RUN, next_phases=(PhaseConfig(batch_size=1024),))
    layout = choice_of(cfg, 8, 1)
    first_phase = layout.apply(cfg).phases[0]
    limit = int(predict(first_phase, first_phase.mesh, V5E).total_bytes) + 1
    machine = Machine(limit)
    found = search(cfg, [layout], V5E, limit, machine, max_compiles=20, tell=quiet)
    first, second = found.best.choice.micro_batches
    assert first == 1
    assert second > 1
    fewer = dataclasses.replace(
        found.best.choice.apply(cfg).phases[1], micro_batches=second // 2
    )
    assert not machine(fewer).fits


def least_memory(machine):
    """Of the phase that needs most, over every layout and number of micro-batches."""
    return min(
        max(
            min(
                machine(dataclasses.replace(phase, micro_batches=count)).bytes
                for count in micro_batch_counts(RUN.phases[number], layout.mesh)
            )
            for number, phase in enumerate(layout.apply(RUN).phases)
        )
        for layout in all_layouts()
    )


@pytest.mark.parametrize("memory", [0.2, 1.0])
def test_nothing_is_said_to_be_too_large_that_was_not_compiled(memory):
    limit = least_memory(Machine(2**40)) - 1  # one byte too little, as predicted
    machine = Machine(limit, memory=memory)
    found = search(RUN, all_layouts(), V5E, limit, machine, max_compiles=30, tell=quiet)
    assert found.complete
    assert (found.best is not None) == (memory < 1.0)
    if found.best is None:
        (trial,) = found.trials
        assert trial.phases[0].bytes == limit + 1


def test_the_search_ends_at_its_limit_and_says_so():
    machine = Machine(2**26, memory=2.5)
    found = search(RUN, all_layouts(), V5E, 2**26, machine, max_compiles=1, tell=quiet)
    assert (found.complete, found.best, len(machine.asked)) == (False, None, 1)


def test_a_layout_that_the_step_refuses_is_passed_over():
    machine = Machine(2**28)
    refused = []

    def measure(phase):
        if phase.mesh.tensor == 1 and phase.mesh.fsdp == 1:
            refused.append(phase)
            raise ValueError("no")
        return machine(phase)

    told = []
    found = search(
        RUN, all_layouts(), V5E, 2**28, measure, max_compiles=60, tell=told.append
    )
    assert refused
    assert found.best.choice.mesh.tensor * found.best.choice.mesh.fsdp > 1
    assert any("cannot be laid out so: no" in line for line in told)


# What may be chosen


def flat(value, path=""):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from flat(item, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


def test_a_choice_changes_layout_and_recomputation_alone():
    before = dict(flat(json.loads(to_json(RUN))))
    changed = set()
    for layout in all_layouts():
        choice = dataclasses.replace(layout, micro_batches=(4, 2))
        after = dict(flat(json.loads(to_json(choice.apply(RUN)))))
        changed |= {path for path in after if after[path] != before[path]}
        assert after.keys() == before.keys()
    assert changed <= MAY_CHANGE
    assert {"model.remat", "mesh.shard_update", "mesh.tensor"} <= changed


@pytest.mark.parametrize("slices", [1, 2])
def test_every_mesh_divides_state_and_rows(slices):
    init = lambda: pretraining.init_params(RUN.model, jax.random.key(0))  # noqa: E731
    params = jax.eval_shape(init)
    seen = set()
    for mesh_cfg in meshes(RUN, num_devices=8, num_slices=slices):
        mesh = make_mesh(mesh_cfg)
        sharding.update_shardings(mesh, params)
        for phase in RUN.phases:
            for count in micro_batch_counts(phase, mesh_cfg):
                sharding.check_batch_size(mesh, phase.batch_size, count)
        seen.add(mesh_cfg)
    # Heads allow 1, 2, 4 over tensor, 128 tokens 1 and 2 over sequence.
    assert {mesh.tensor for mesh in seen} == {1, 2, 4}
    assert {mesh.sequence for mesh in seen} == {1, 2}
    assert {mesh.fsdp for mesh in seen} == ({1, 2, 4, 8} if slices == 1 else {1, 2, 4})
    assert all(mesh.slices == slices for mesh in seen)


def test_rows_that_cannot_be_shared_leave_no_layout():
    cfg = dataclasses.replace(RUN, batch_size=3, next_phases=())
    assert {layout.mesh.data * layout.mesh.fsdp for layout in all_layouts(cfg)} == {1}
    with pytest.raises(
        ValueError, match=r"no mesh divides batches of 3 rows.*16 chips"
    ):
        plan(
            cfg,
            topology="v5e:4x4",
            num_devices=16,
            num_slices=1,
            chip=V5E,
            measure=Machine(2**34),
            max_compiles=1,
        )


def test_a_kernel_that_is_named_is_kept():
    named = dataclasses.replace(RUN.model, attention="xla")
    assert kernels_of(dataclasses.replace(RUN, model=named)) == ("xla",)
    assert kernels_of(RUN) == ("auto", "xla")


def test_parameters_are_counted_exactly():
    params = jax.eval_shape(
        lambda: pretraining.init_params(RUN.model, jax.random.key(0))
    )
    counts = count_parameters(RUN.model)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counts.total_split + counts.other == total


def test_a_config_of_other_slices_or_devices_is_refused():
    cfg = dataclasses.replace(RUN, mesh=MeshConfig(slices=2))
    with pytest.raises(ValueError, match=r"slices=2, but the topology has 1"):
        choice_of(cfg, 8, 1)
    cfg = dataclasses.replace(RUN, mesh=MeshConfig(data=3))
    with pytest.raises(ValueError, match=r"data=3 .* a slice of the topology has 8"):
        choice_of(cfg, 8, 1)


# Going on


def test_a_stopped_search_goes_on_with_what_was_compiled(tmp_path):
    machine, path = Machine(2**27, memory=2.5), tmp_path / "compiled.jsonl"

    def stopped(phase):
        if len(machine.asked) == 1:
            raise KeyboardInterrupt
        return machine(phase)

    def run(measure):
        return search(
            RUN,
            all_layouts(),
            V5E,
            2**27,
            Remembered(measure, path, "v5e:2x4"),
            max_compiles=60,
            tell=quiet,
        )

    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    with path.open("a") as file:
        file.write('{"key": "half a li')
    after = Machine(2**27, memory=2.5)
    found = run(after)
    assert not {to_json(p) for p in after.asked} & {to_json(p) for p in machine.asked}
    whole = Machine(2**27, memory=2.5)
    assert found == search(
        RUN, all_layouts(), V5E, 2**27, whole, max_compiles=60, tell=quiet
    )
    assert len(machine.asked) + len(after.asked) == len(whole.asked)


def test_a_half_written_result_is_compiled_again(tmp_path):
    path = tmp_path / "compiled.jsonl"
    path.write_text('{"key": "half a li')
    machine = Machine(2**30)
    phase = choice_of(RUN, 8, 1).apply(RUN).phases[0]
    for _ in range(2):
        Remembered(machine, path, "v5e:2x4")(phase)
    assert len(machine.asked) == 1


def test_all_that_a_program_is_made_of_is_there():
    package = pathlib.Path(remembered.__file__).parents[1]
    assert all((package / room).exists() for room in remembered._ROOMS)


def test_results_are_of_one_program(tmp_path, monkeypatch):
    phase = choice_of(RUN, 8, 1).apply(RUN).phases[0]
    machine = Machine(2**30)

    def asked(phase, topology="v5e:2x4"):
        before = len(machine.asked)
        Remembered(machine, tmp_path / "compiled.jsonl", topology)(phase)
        return len(machine.asked) - before

    assert asked(phase) == 1
    slower = dataclasses.replace(phase.optimizer, learning_rate=1e-5)
    assert asked(dataclasses.replace(phase, optimizer=slower, seed=1)) == 0
    assert asked(phase, "v6e:2x4") == 1
    model = dataclasses.replace(phase.model, remat="full")
    assert asked(dataclasses.replace(phase, model=model)) == 1
    monkeypatch.setattr(remembered, "_code", lambda: "other")
    assert asked(phase) == 1
