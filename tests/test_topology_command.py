"""`bert-jax compile` through the command line, for the CPU, and the cache it fills."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from prepared_corpus import make_corpus, prepared

from bert_jax import cli
from bert_jax.topology import compiled

SMALL = (
    *(
        "--model.vocab-size",
        "44",
        "--model.hidden-size",
        "32",
        "--model.mlp-size",
        "48",
    ),
    *("--model.max-positions", "32", "--data.sequence-length", "32"),
    *("--batch-size", "16", "--num-steps", "2", "--optimizer.warmup-steps", "1"),
    *("--eval-batches", "1"),
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What `compile` prints for eight CPU devices, and its document."""
    file = tmp_path_factory.mktemp("compile") / "step.json"
    # The config comes first, without its flag.
    args = ("compile", "bert_tiny", "--topology", "cpu:8", "--json", str(file), *SMALL)
    args += ("--mesh.fsdp", "2")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *a, **_: lines.append(" ".join(a)))
        cli.main(args)
    return "\n".join(lines), json.loads(file.read_text())


def test_memory_collectives_and_sharding_are_shown(shown):
    text, _ = shown
    assert "cpu:8: 8 devices, mesh data=4 fsdp=2" in text
    assert re.search(r"^parameters +\d", text, re.MULTILINE)
    assert re.search(r"^optimizer +\d", text, re.MULTILINE)
    assert re.search(r"^activations and other temporaries +\d", text, re.MULTILINE)
    assert re.search(r"^all-gather +fsdp +2 +f32", text, re.MULTILINE)
    assert re.search(r"^all-reduce +data +4 +f32", text, re.MULTILINE)
    assert re.search(r"^layers/mlp/up/kernel +\[2, 32, 48\] .*fsdp", text, re.MULTILINE)
    # Nobody knows what this CPU can do, so no time is made up.
    assert "no estimate" in text
    assert "MFU" not in text


def test_the_document_holds_the_same(shown):
    text, document = shown
    (phase,) = document["phases"]
    assert phase["topology"] == "cpu:8"
    assert phase["fits"] is True
    assert phase["memory"]["parameters"] * 2 <= phase["memory"]["optimizer"] + 100
    assert phase["flops"] > 0
    assert phase["estimate"] is None
    sent = sum(c["moved_bytes"] for c in phase["collectives"])
    assert f"each device sends {sent / 2**20:,.2f} MiB a step" in text
    assert {row["name"] for row in phase["sharding"]} >= {"pooler/kernel", "nsp/bias"}


def test_what_does_not_fit_exits_with_1(monkeypatch, capsys):
    real = compiled.compile_step

    def too_large(*args, **kwargs):
        step = real(*args, **kwargs)
        memory = dataclasses.replace(step.memory, limit=1_000)
        return dataclasses.replace(step, memory=memory, fits=False)

    monkeypatch.setattr(compiled, "compile_step", too_large)
    with pytest.raises(SystemExit) as stop:
        cli.main(["compile", "bert_tiny", "--topology", "cpu:8", *SMALL])
    assert stop.value.code == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--topology", "v5e:3x3"], "v5e and v6e with 1x1"),
        (["--topology", "cpu:8", "--mesh.data", "3"], "8 are visible"),
        (["--topology", "cpu:8", "--batch-size", "6"], "multiple of"),
    ],
)
def test_a_mistake_is_one_message(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compile", "bert_tiny", *args])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def test_a_run_finds_the_step_that_compile_left_in_the_cache(tmp_path):
    prepared(make_corpus(tmp_path), tmp_path / "dataset")
    # One device: the next test says why.
    common = (*SMALL, "--data.dataset", "dataset", "--compile-cache", "cache")

    def bert_jax(*args, **variables):
        done = subprocess.run(
            [sys.executable, "-m", "bert_jax.cli", *args, *common],
            cwd=tmp_path,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    bert_jax("compile", "bert_tiny", "--topology", "cpu:1")
    before = _steps(tmp_path / "cache")
    assert len(before) == 1
    said = bert_jax(
        *("pretrain", "--config", "bert_tiny", "--output", "run"),
        JAX_LOG_COMPILES="1",
    )
    assert "Persistent compilation cache hit for 'jit_step'" in said
    assert _steps(tmp_path / "cache") == before


def test_several_cpu_devices_take_no_program_from_a_cache(tmp_path, capsys):
    args = ["--topology", "cpu:8", "--compile-cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["compile", "bert_tiny", *args, *SMALL])
    assert stop.value.code == 1
    assert "8 CPU devices. XLA on CPU hangs" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def _steps(cache: pathlib.Path) -> set[str]:
    return {path.name for path in cache.glob("jit_step-*-cache")}
