"""The whole way, through the command line: quickstart on a small real corpus.

One run of it serves all tests here. Other tests stop, kill and repeat parts of it and
compare what comes out bit by bit.
"""

import html.parser
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from bert_jax.data.prepared.summary import summarize

PACKAGES = ("flax", "orbax")
NUM_STEPS = 40

# Every test here starts the program, some of them many times.
pytestmark = pytest.mark.slow(ci=False)


def bert_jax(*args: object, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs one command in a process of its own."""
    return subprocess.run(
        _command(args), cwd=cwd, capture_output=True, text=True, timeout=400
    )


def _command(args: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "bert_jax.cli", *map(str, args)]


def quickstart(folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return bert_jax(
        *("quickstart", "--output", "qs", "--packages", *PACKAGES),
        *("--vocab-size", 800, "--num-steps", NUM_STEPS, "--max-train", 400),
        cwd=folder,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished quickstart: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    finished = quickstart(folder)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder, finished.stdout


def pretrain_args(
    workdir: str, *, num_steps: int = NUM_STEPS, warmup_steps: int = NUM_STEPS // 10
) -> tuple[object, ...]:
    """As quickstart calls it, with checkpoints every ten steps."""
    return (
        *("pretrain", "--config", "quickstart", "--model.vocab-size", 800),
        *("--num-steps", num_steps, "--optimizer.warmup-steps", warmup_steps),
        *("--data.dataset", "qs/dataset", "--output", workdir),
        *("--loop.log-every-steps", 5, "--loop.checkpoint-every-steps", 10),
    )


def params_hash(run: pathlib.Path) -> str:
    """Hash of the newest parameters, read as a fine-tuning run reads them."""
    script = (
        "import pathlib, sys, jax\n"
        "from bert_jax.config import MeshConfig\n"
        "from bert_jax.train.initial import start_encoder\n"
        "from bert_jax.train.mesh import make_mesh\n"
        "print(start_encoder(pathlib.Path(sys.argv[1]), make_mesh(MeshConfig()), ['embed', 'layers', 'final', 'pooler'])"
        ".origin['sha256'])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout.split()[-1]


def metrics_without_time(run: pathlib.Path) -> list[dict]:
    clock = {
        "elapsed_secs",
        "goodput",
        "input_wait_share",
        "peak_host_bytes",
        "sequences_per_sec",
        "tokens_per_sec",
    }
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in clock} for line in lines
    ]


def test_every_step_is_announced_as_a_command(done):
    _, output = done
    for number in range(1, 9):
        assert f"[{number}/8]" in output
    for command in ("corpus", "tokenizer", "prepare", "pretrain", "finetune", "export"):
        assert f"$ bert-jax {command} " in output


def test_all_figures_are_printed_and_stored(done):
    folder, output = done
    pretrain = json.loads((folder / "qs/pretrain/results.json").read_text())
    assert pretrain["step"] == NUM_STEPS
    assert f"{pretrain['eval']['mlm_loss']:.3f} nats" in output
    assert f"unigram entropy {pretrain['unigram_entropy']:.3f}" in output
    manifest = json.loads((folder / "qs/dataset/manifest.json").read_text())
    assert pretrain["corpora"] == [summarize(manifest)]
    for name in ("finetune", "finetune_from_scratch"):
        scores = json.loads((folder / f"qs/{name}/results.json").read_text())["eval"]
        assert f"{scores['accuracy']:.1%}" in output
    baselines = json.loads((folder / "qs/baselines/results.json").read_text())
    assert baselines["baselines"]["tfidf_logistic_regression"]["accuracy"] > 0.5
    assert f"{baselines['baselines']['majority']['accuracy']:.1%}" in output


def test_run_directories_are_complete(done):
    folder, _ = done
    for name in ("pretrain", "finetune"):
        run = folder / "qs" / name
        for part in ("config.json", "run.json", "tokenizer", "checkpoints"):
            assert (run / part).exists()
        assert list((run / "tensorboard").glob("events.*"))
        assert metrics_without_time(run)[-1]["kind"] == "eval"
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        shares = [x["input_wait_share"] for x in lines if x["kind"] == "train"]
        assert all(0.0 <= share < 1.0 for share in shares)
        spent = json.loads((run / "results.json").read_text())["goodput"]
        wall, share = spent.pop("wall_secs"), spent.pop("share")
        assert sum(spent.values()) == pytest.approx(wall)
        assert share == spent["train_secs"] / wall > 0.0
        assert spent["lost_secs"] == 0.0


def test_the_report_is_one_page_without_anything_outside(done):
    folder, _ = done
    page = (folder / "qs/report/report.html").read_text()
    assert "Lines that repeat at least so often" in page
    html.parser.HTMLParser().feed(page)
    assert "TF-IDF" in page
    assert "unigram" in page
    assert 'src="http' not in page
    assert list((folder / "qs/report").glob("*.png"))


def test_predictions_are_labelled_with_probabilities(done):
    _, output = done
    assert "%  |  Raise an exception if the file descriptor" in output


def test_fine_tuning_says_where_its_encoder_came_from(done):
    folder, output = done
    origin = json.loads((folder / "qs/finetune/run.json").read_text())["encoder"]
    source = folder / "qs/pretrain"
    assert f"{origin['num_tensors']} tensors of {source} at step {NUM_STEPS}" in output
    assert origin["sha256"][:16] in output
    assert origin["sha256"] == params_hash(folder / "qs/pretrain")


def test_a_second_run_finds_everything_done_and_says_the_same(done):
    folder, output = done
    before = (folder / "qs/finetune/results.json").read_bytes()
    again = quickstart(folder)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (folder / "qs/finetune/results.json").read_bytes() == before
    for line in output.splitlines():
        if "accuracy" in line and "macro-F1" in line and line.startswith("  "):
            assert line in again.stdout


def test_evaluate_repeats_the_final_evaluation_exactly(done):
    folder, _ = done
    for name in ("pretrain", "finetune"):
        expected = json.loads((folder / f"qs/{name}/results.json").read_text())["eval"]
        out = bert_jax("evaluate", f"qs/{name}", cwd=folder)
        assert out.returncode == 0, out.stderr
        shown = dict(line.split(": ") for line in out.stdout.splitlines())
        assert shown == {k: f"{v:.6g}" for k, v in expected.items()}


@pytest.fixture(scope="module")
def uninterrupted(done):
    folder, _ = done
    out = bert_jax(*pretrain_args("whole"), cwd=folder)
    assert out.returncode == 0, out.stderr
    return folder / "whole"


@pytest.mark.parametrize(
    ("number", "num_workers"),
    [(signal.SIGINT, 2), (signal.SIGTERM, 0), (signal.SIGKILL, 1)],
)
def test_a_stopped_run_goes_on_bit_by_bit(done, uninterrupted, number, num_workers):
    folder, _ = done
    name = f"stopped_{number.name}"
    workers = ("--data.num-workers", num_workers)  # it goes on without any
    with subprocess.Popen(
        _command((*pretrain_args(name), *workers)),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("step      15/"):
                os.kill(process.pid, number)
                break
        _, errors = process.communicate(timeout=200)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, errors
        assert "Start the same command again" in errors
        assert "Traceback" not in errors
        assert "leaked" not in errors
    assert not (folder / name / "results.json").exists()

    out = bert_jax(*pretrain_args(name), cwd=folder)
    assert out.returncode == 0, out.stderr
    assert "going on from step" in out.stdout
    assert params_hash(folder / name) == params_hash(uninterrupted)
    assert (
        metrics_without_time(folder / name)[-1]
        == metrics_without_time(uninterrupted)[-1]
    )
    steps = [x["step"] for x in metrics_without_time(folder / name) if "loss" in x]
    assert steps == sorted(set(steps)), "a step was logged twice"


def test_another_setting_in_the_same_directory_is_refused(done, uninterrupted):
    folder, _ = done
    out = bert_jax(*pretrain_args("whole"), "--seed", 1, cwd=folder)
    assert out.returncode == 1
    assert "seed is 0 there and 1 here" in out.stderr
    assert "Traceback" not in out.stderr


def test_inspect_shows_masks_and_pair_labels(done):
    folder, _ = done
    out = bert_jax("inspect", "qs/dataset", "--rows", 3, cwd=folder)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("row ") == 3
    assert "[[MASK]|was " in out.stdout
    assert "B is random" in out.stdout
    assert "[CLS]" in out.stdout


def test_export_is_loaded_back_by_transformers(done):
    pytest.importorskip("torch", reason="PyTorch is not installed (extra: export)")
    folder, output = done
    assert "loaded back by transformers: every weight bit by bit; " in output
    out = bert_jax("export", "qs/pretrain", "--output", "hf", cwd=folder)
    assert out.returncode == 0, out.stderr
    for export in ("qs/huggingface", "hf"):
        manifest = json.loads((folder / export / "bert_jax_export.json").read_text())
        for found in manifest["differences"].values():
            assert found["largest"] <= found["allowed"] <= 1e-4


def test_an_export_comes_back_and_training_goes_on_from_it(done):
    folder, _ = done
    # Loading it back needs libraries of the extras; StableHLO needs none.
    out = bert_jax(
        *("export", "qs/pretrain", "--to", "stablehlo", "--output", "hlo"), cwd=folder
    )
    assert out.returncode == 0, out.stderr
    assert "loaded back from its files: every weight bit by bit; " in out.stdout
    for args in (
        ("export", "qs/pretrain", "--output", "there"),
        ("import", "there", "--output", "back"),
    ):
        out = bert_jax(*args, cwd=folder)
        assert out.returncode == 0, out.stderr
    assert "not used: 0\nnew, drawn afresh: 0\n" in out.stdout
    assert params_hash(folder / "back") == params_hash(folder / "qs/pretrain")

    out = bert_jax("evaluate", "back", cwd=folder)
    assert out.returncode == 1
    assert "has no data of its own; pass a dataset" in out.stderr
    judged = bert_jax("evaluate", "back", "qs/dataset", cwd=folder)
    assert judged.returncode == 0, judged.stderr

    first_losses = {}
    # A Hugging Face directory has no place for the step.
    for start, step in (("back", 0), ("qs/pretrain", NUM_STEPS)):
        name = f"from_{start.replace('/', '_')}"
        args = pretrain_args(name, num_steps=10, warmup_steps=2)
        out = bert_jax(*args, "--checkpoint", start, cwd=folder)
        assert out.returncode == 0, out.stderr
        assert f"tensors of {folder / start} at step {step}, sha256" in out.stdout
        first_losses[start] = metrics_without_time(folder / name)[0]["mlm_loss"]
    fresh = metrics_without_time(folder / "qs/pretrain")[0]["mlm_loss"]
    assert first_losses["back"] == first_losses["qs/pretrain"] < fresh


def test_a_second_phase_keeps_the_moments(done):
    folder, _ = done
    args = ("--checkpoint", "qs/pretrain", "--moments", "keep")
    layout = ("--data.layout", "buckets")  # BERT's phases differ in their rows too
    short = {"num_steps": 5, "warmup_steps": 1}
    out = bert_jax(*pretrain_args("phase2", **short), *args, *layout, cwd=folder)
    assert out.returncode == 0, out.stderr
    assert " rows of 64 an epoch (buckets, " in out.stdout
    assert f"at step {NUM_STEPS} and the moments, sha256" in out.stdout
    other = ("--model.gelu", "exact", "--model.hidden-size", 64)
    out = bert_jax(*pretrain_args("phase2b", **short), *args, *other, cwd=folder)
    assert out.returncode == 1
    assert "--model.hidden-size 64 would be ignored" in out.stderr
    assert not (folder / "phase2b").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("import", "nowhere", "--output", "x"), "nowhere is no model"),
        (("import", "qs/corpus", "--output", "x"), "qs/corpus is no model"),
        (("pretrain", "--output", "x", "--moments", "keep"), "needs a checkpoint"),
        (("pretrain", "--output", "x"), "pass --data.dataset DIR"),
        (("pretrain", "--config", "none", "--output", "x"), "no config of this name is shipped"),
        (("finetune", "--output", "x"), "pass --checkpoint RUN"),
        (("predict", "qs/pretrain", "text"), "is a pretrain run; expected a finetune"),
        (("predict", "qs/finetune", ""), "of 1 text, each is empty"),
        (("evaluate", "nowhere"), "not a run directory"),
        (("inspect", "qs/corpus"), "holds no finished dataset"),
        (("export", "qs/finetune", "--output", "qs/corpus"), "qs/corpus"),
        (("report", "--output", "x", "--pretrain", "nowhere"), "nowhere"),
        (("prepare", "--source", "files:nothing*", "--tokenizer", "qs/tokenizer",
          "--output", "x"), "nothing"),
        (("tokenizer", "train", "--source", "files:qs/corpus/*.jsonl", "--vocab-size",
          "5000000", "--output", "x"), "at most"),
        (("tokenizer", "wrap", "none.txt", "--lowercase", "--output", "x"), "none.txt"),
        (("tokenizer", "wrap", "qs/tokenizer/sentencepiece.model", "--output", "x"), "or --no-lowercase"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_mistake_gives_one_message_and_no_traceback(done, args, message):
    folder, _ = done
    shutil.rmtree(folder / "x", ignore_errors=True)
    out = bert_jax(*args, cwd=folder)
    assert out.returncode == 1, out.stdout + out.stderr
    assert message in out.stderr
    assert "Traceback" not in out.stderr
    assert not (folder / "x").exists(), "something was left behind"


@pytest.mark.parametrize(
    "args",
    [
        ("pretrian",),
        ("pretrain", "--output", "x", "--model.num-layer", "3"),
        ("pretrain", "--output", "x", "--model.num-layers", "three"),
        ("pretrain", "--output", "x", "--model.num-heads", "7"),
        ("prepare",),
    ],
    ids=" ".join,
)
def test_a_wrong_flag_exits_with_2(done, args):
    folder, _ = done
    out = bert_jax(*args, cwd=folder)
    assert out.returncode == 2
    assert "Traceback" not in out.stderr


def test_help_explains_every_option(done):
    folder, _ = done
    overview = bert_jax("--help", cwd=folder).stdout
    for name in ("quickstart", "prepare", "pretrain", "inspect", "report"):
        assert name in overview
    page = bert_jax("pretrain", "--help", cwd=folder).stdout
    assert "--optimizer.weight-decay" in page
    assert "do not decay" in page
