"""`bert-jax plan`: the config it writes is the planned one."""

import dataclasses
import json
import pathlib
import runpy

import pytest
from planned_runs import BASE, LIMIT, RUN, Machine, planned, write

from bert_jax import cli
from bert_jax.config import DataConfig, MeshConfig, PretrainConfig
from bert_jax.config_json import to_json
from bert_jax.family import model_config
from bert_jax.topology import apart
from bert_jax.topology.apart import compile_apart
from bert_jax.topology.choices import (
    choice_of,
)
from bert_jax.topology.plan import NothingFitsError
from bert_jax.topology.write_config import check_output, config_text, write_config


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
