"""The search finds the fastest layout that fits, and the config it writes is that one."""

import dataclasses
import json
import math
import pathlib
import runpy

import jax
import pytest

from bert_jax import cli
from bert_jax.config import DataConfig, MeshConfig, PhaseConfig, PretrainConfig
from bert_jax.config_json import to_json
from bert_jax.family import model_config
from bert_jax.model import pretraining
from bert_jax.runtime.chips import chip_named
from bert_jax.topology import apart, remembered
from bert_jax.topology.apart import compile_apart
from bert_jax.topology.candidates import Measured
from bert_jax.topology.choices import (
    choice_of,
    kernels_of,
    layouts,
    meshes,
    micro_batch_counts,
)
from bert_jax.topology.plan import NothingFitsError, plan
from bert_jax.topology.predict import count_parameters, predict
from bert_jax.topology.remembered import Remembered
from bert_jax.topology.search import search
from bert_jax.topology.write_config import check_output, config_text, write_config
from bert_jax.train import sharding
from bert_jax.train.mesh import make_mesh

V5E = chip_named("v5e")
RUN = PretrainConfig(
    model=model_config("mini", compute_dtype="bfloat16"),
    data=DataConfig(sequence_length=128),
    batch_size=256,
    num_steps=900_000,
    next_phases=(PhaseConfig(batch_size=128),),
)
# Which fields a choice may set, as paths into the JSON of a config.
MAY_CHANGE = {
    "model.remat",
    "model.attention",
    "model.mlm_logits",
    "micro_batches",
    "next_phases.0.micro_batches",
    *(f"mesh.{field.name}" for field in dataclasses.fields(MeshConfig)),
}


class Machine:
    """A compiler that knows how far the predictions are off."""

    def __init__(self, limit, *, memory=1.0, time=1.3, says_bytes=True):
        self.limit, self.memory, self.time = limit, memory, time
        self.says_bytes = says_bytes
        self.asked = []

    def __call__(self, phase):
        self.asked.append(phase)
        predicted = predict(phase, phase.mesh, V5E)
        needed = int(predicted.state_bytes + self.memory * predicted.activation_bytes)
        fits = needed <= self.limit
        return Measured(
            needed if fits or self.says_bytes else None,
            self.limit,
            fits,
            self.time * predicted.seconds if fits else None,
        )


def all_layouts(cfg=RUN, num_devices=8, num_slices=1):
    return list(
        layouts(
            cfg,
            num_devices=num_devices,
            num_slices=num_slices,
            kernels=kernels_of(cfg),
        )
    )


def fastest(cfg, machine):
    """By trying every layout with every number of micro-batches."""
    best = math.inf
    for layout in all_layouts(cfg):
        total = 0.0
        for number, phase in enumerate(layout.apply(cfg).phases):
            results = [
                machine(dataclasses.replace(phase, micro_batches=count))
                for count in micro_batch_counts(cfg.phases[number], layout.mesh)
            ]
            total += phase.num_steps * min(
                (r.seconds for r in results if r.fits), default=math.inf
            )
        best = min(best, total)
    return best


def quiet(line):
    del line


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


# The written config

LIMIT = V5E.device_usable_bytes
BASE = """from bert_jax import cli
from bert_jax.config import DataConfig, PhaseConfig, PretrainConfig
from bert_jax.family import model_config


def get_config():
    return PretrainConfig(
        model=model_config("mini", compute_dtype="bfloat16"),
        data=DataConfig(sequence_length=128),
        batch_size=256,
        num_steps=900_000,
        next_phases=(PhaseConfig(batch_size=128),),
    )
"""


def planned(machine, **changes):
    settings = {
        "topology": "v5e:2x4",
        "num_devices": 8,
        "num_slices": 1,
        "chip": V5E,
        "measure": machine,
        "max_compiles": 60,
        "tell": quiet,
    }
    return plan(RUN, **settings | changes)


def write(base, output, result):
    text = config_text(
        RUN,
        result.choice,
        base=base,
        output=output,
        title='Planned, with a "name" \\n of its own.',
        command=f'bert-jax plan {base} --output "{output}"',
        report=result.report,
        date="2026-11-24",
    )
    write_config(output, text, result.choice.apply(RUN))


def test_the_written_config_is_the_planned_one(tmp_path):
    base, output = tmp_path / "bert's.py", tmp_path / "plans" / "v5e.py"
    base.write_text(BASE)
    result = planned(Machine(LIMIT, memory=90.0))
    write(base, output, result)
    read = runpy.run_path(str(output))["get_config"]()
    assert read == result.choice.apply(RUN)
    assert read != RUN
    assert list(output.parent.iterdir()) == [output]
    header = output.read_text().split('"""')[1]
    assert "Compiled, not run" in header
    assert "Phase 2, 128 rows of 512: fits: " in header
    assert "no other that should fit is predicted to be faster" in header

    base.write_text(BASE.replace("batch_size=256", "batch_size=512"))
    with pytest.raises(ValueError, match="other batches"):
        runpy.run_path(str(output))["get_config"]()


def test_a_config_that_came_out_otherwise_is_not_written(tmp_path):
    base, output = tmp_path / "base.py", tmp_path / "v5e.py"
    base.write_text(BASE.replace("num_steps=900_000", "num_steps=800_000"))
    with pytest.raises(RuntimeError, match="is not the planned one"):
        write(base, output, planned(Machine(LIMIT)))
    assert list(tmp_path.iterdir()) == [base]


def test_nothing_is_overwritten_unasked(tmp_path):
    base, output = tmp_path / "base.py", tmp_path / "plan.py"
    base.write_text(BASE)
    check_output(output, base, force=False)
    output.write_text("")
    with pytest.raises(FileExistsError, match="--force"):
        check_output(output, base, force=False)
    check_output(output, base, force=True)
    with pytest.raises(ValueError, match="is the config that is planned"):
        check_output(base, base, force=True)


def test_what_cannot_be_planned_is_said():
    with pytest.raises(ValueError, match="its memory and speed are not known"):
        planned(Machine(LIMIT), chip=None, topology="cpu:8")
    nothing = Machine(LIMIT, memory=1e6)
    with pytest.raises(NothingFitsError, match=r"none of the \d+ layouts.*fits"):
        planned(nothing)


def test_shipped_configs_are_found_from_another_folder(tmp_path):
    base = pathlib.Path(__file__).parents[1] / "configs" / "bert_tiny.py"
    cfg = runpy.run_path(str(base))["get_config"]()
    choice = dataclasses.replace(choice_of(cfg, 8, 1), remat="full")
    output = tmp_path / "tiny.py"
    text = config_text(
        cfg,
        choice,
        base=base,
        output=output,
        title="Tiny.",
        command="bert-jax plan bert_tiny",
        report=(),
        date="2026-11-24",
    )
    write_config(output, text, choice.apply(cfg))
    assert runpy.run_path(str(output))["get_config"]().model.remat == "full"


# The command


def test_the_command_writes_a_config_and_goes_on(tmp_path, monkeypatch, capsys):
    base, output = tmp_path / "base.py", tmp_path / "planned.py"
    base.write_text(BASE)
    machine = Machine(LIMIT, memory=90.0)
    monkeypatch.setattr(apart, "measure_apart", lambda topology: machine)
    command = ["plan", str(base), "--topology", "v5e:2x4", "--output", str(output)]
    with pytest.raises(SystemExit):
        cli.main([*command, "--max-compiles", "1"])
    assert "a larger --max-compiles goes on" in capsys.readouterr().err
    assert not output.exists()
    cli.main(command)
    asked = len(machine.asked)
    read = runpy.run_path(str(output))["get_config"]()
    assert read == planned(Machine(LIMIT, memory=90.0)).choice.apply(RUN)
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "--force" in capsys.readouterr().err
    cli.main([*command, "--force"])
    assert len(machine.asked) == asked
    assert f"--topology v5e:2x4 --output {output}" in output.read_text()


# Compiling in a process of its own


def test_a_planned_config_compiles():
    cfg = PretrainConfig(
        model=model_config("tiny", vocab_size=200, max_positions=16),
        data=DataConfig(sequence_length=16),
        batch_size=8,
    )
    mesh = MeshConfig(slices=1, data=2, fsdp=2, tensor=2, shard_update=True)
    choice = dataclasses.replace(
        choice_of(cfg, 8, 1), mesh=mesh, remat="full", micro_batches=(2,)
    )
    (phase,) = choice.apply(cfg).phases
    result = compile_apart(phase, "cpu:8")
    assert result["fits"]
    assert (result["mesh"]["data"], result["mesh"]["tensor"]) == (2, 2)
    assert result["micro_batches"] == 2
    assert {axis for one in result["collectives"] for axis in one["axes"]} >= {
        "data",
        "fsdp",
        "tensor",
    }


def test_what_the_other_process_refuses_is_an_error_here(tmp_path, monkeypatch):
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"phase": to_json(RUN), "topology": "v9:1x1"}))
    monkeypatch.setattr("sys.argv", ["apart", str(request)])
    apart.main()
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert "v9:1x1" in answer["error"]


def test_a_process_that_dies_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(RuntimeError, match=r"exit code 9: out of memory"):
        compile_apart(RUN, "v5e:4x4")
