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

# Each case compiles a training step for a machine.
pytestmark = pytest.mark.slow(ci=False)

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
    *("--model.num-layers", "1", "--batch-size", "16", "--num-steps", "2"),
    *("--optimizer.warmup-steps", "1", "--eval-batches", "1"),
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What `compile` prints for eight CPU devices, its document and the compiled step."""
    file = tmp_path_factory.mktemp("compile") / "step.json"
    steps = []
    real = compiled.compile_step

    def keeping(*args, **kwargs):
        steps.append(real(*args, **kwargs))
        return steps[-1]

    # The config comes first, without its flag.
    args = (
        "compile",
        "bert_tiny",
        "--topology",
        "cpu:8",
        "--output",
        str(file),
        *SMALL,
    )
    args += ("--mesh.fsdp", "2", "--try-remat", "full", "--try-micro-batches", "2")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *a, **_: lines.append(" ".join(a)))
        patch.setattr(compiled, "compile_step", keeping)
        cli.main(args)
    (step,) = steps
    return "\n".join(lines), json.loads(file.read_text()), step


def test_memory_collectives_and_sharding_are_shown(shown):
    text, _, _ = shown
    assert "32 tokens, batch of 16 rows in 2 micro-batches, remat full" in text
    assert "cpu:8: 8 devices, mesh data=4 fsdp=2" in text
    assert re.search(r"^parameters +\d", text, re.MULTILINE)
    assert re.search(r"^optimizer +\d", text, re.MULTILINE)
    assert re.search(r"^activations and other temporaries +\d", text, re.MULTILINE)
    assert re.search(r"^all-gather +fsdp +2 +f32", text, re.MULTILINE)
    assert re.search(r"^all-reduce +data +4 +f32", text, re.MULTILINE)
    assert re.search(r"^layers/mlp/up/kernel +\[1, 32, 48\] .*fsdp", text, re.MULTILINE)
    # Nobody knows what this CPU can do, so no time is made up.
    assert "There is no roofline" in text
    assert "MFU" not in text


def test_the_document_holds_the_same(shown):
    text, document, _ = shown
    (step,) = document["steps"]
    assert (step["phase"], step["topology"]) == (1, "cpu:8")
    assert (step["remat"], step["micro_batches"]) == ("full", 2)
    assert step["fits"] is True
    assert step["memory"]["parameters"] * 2 <= step["memory"]["optimizer"] + 100
    assert step["flops"] > 0
    assert step["roofline"] is None
    sent = sum(c["moved_bytes"] for c in step["collectives"])
    assert f"Each device sends {sent / 2**20:,.2f} MiB in a step" in text
    names = {row["name"] for row in document["sharding"]}
    assert names >= {"pooler/kernel", "nsp/bias"}


@pytest.fixture
def compile_limited(shown, monkeypatch, capsys):
    """Runs `compile` with steps of which only those of some remat policies fit."""
    _, _, step = shown

    def run(*args, fitting):
        def pretended(cfg, *_, **__):
            limit = 2**40 if cfg.compute.remat in fitting else 1_000
            memory = dataclasses.replace(step.memory, limit=limit)
            return dataclasses.replace(step, cfg=cfg, memory=memory)

        monkeypatch.setattr(compiled, "compile_step", pretended)
        code = 0
        try:
            cli.main(["compile", "bert_tiny", "--topology", "cpu:8", *SMALL, *args])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    return run


def test_what_does_not_fit_exits_with_1(compile_limited):
    code, text = compile_limited(fitting=())
    assert code == 1
    assert "DOES NOT FIT" in text


def test_several_values_give_a_row_for_each_combination(compile_limited):
    tried = ("--try-remat", "none", "full", "--try-micro-batches", "1", "2")
    code, text = compile_limited(*tried, fitting=("full",))
    lines = [line.split()[:4] for line in text.splitlines()]
    heading = lines.index(["phase", "remat", "micro-batches", "fits"])
    assert lines[heading + 1 : heading + 5] == [
        ["1", "none", "1", "NO"],
        ["1", "none", "2", "NO"],
        ["1", "full", "1", "yes"],
        ["1", "full", "2", "yes"],
    ]
    assert code == 0
    assert compile_limited(*tried, fitting=())[0] == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--topology", "v5e:3x3"], "v5e and v6e with 1x1"),
        (["--topology", "cpu:8", "--mesh.data", "3"], "8 are visible"),
        (["--topology", "cpu:8", "--batch-size", "6"], "multiple of"),
        (
            ["--topology", "cpu:8", *SMALL, "--try-micro-batches", "1", "3"],
            "--try-micro-batches 3: PretrainConfig.batch_size=16 is not a multiple",
        ),
        (
            ["--topology", "cpu:8", *SMALL, "--try-micro-batches", "1", "4"],
            "cannot be shared",
        ),
        (
            ["--topology", "cpu:8", *SMALL, "--try-micro-batches", "2", "1", "2"],
            "--try-micro-batches has 2 twice; give each value once",
        ),
        (
            ["--topology", "cpu:8", *SMALL, "--try-remat", "none", "none"],
            "--try-remat has none twice; give each value once",
        ),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_compiled(
    args, message, refused, monkeypatch
):
    monkeypatch.setattr(compiled, "compile_step", None)
    assert message in refused("compile", "bert_tiny", *args)


@pytest.mark.slow(ci=False)
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


def test_several_cpu_devices_take_no_program_from_a_cache(tmp_path, refused):
    args = ["--topology", "cpu:8", "--compile-cache", str(tmp_path / "cache")]
    assert "8 CPU devices. XLA on CPU hangs" in refused(
        "compile", "bert_tiny", *args, *SMALL
    )
    assert not (tmp_path / "cache").exists()


def _steps(cache: pathlib.Path) -> set[str]:
    return {path.name for path in cache.glob("jit_step-*-cache")}
