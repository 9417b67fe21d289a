"""Small files of a run that were damaged: always named, or said and without effect."""

import dataclasses
import functools
import json
import shutil

import jax
import pytest
from prepared_corpus import make_corpus
from random_runs import random_run

from bert_jax import config_json
from bert_jax.cli import main
from bert_jax.config import FinetuneConfig, LoopConfig, MeshConfig, PhaseConfig
from bert_jax.data.json_file import read_json, write_json
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import METADATA_FILE
from bert_jax.train.initial import start_encoder
from bert_jax.train.mesh import make_mesh
from bert_jax.train.monitoring.metrics import MetricsLog, read_metrics
from bert_jax.train.runs.checkpoint_list import list_checkpoints
from bert_jax.train.runs.results_file import finished_results
from bert_jax.train.runs.run import load_run, load_run_config
from bert_jax.train.runs.run_start import start_run


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[1]",
    "a number": lambda content: b"7",
    "nothing in it": lambda content: b"{}",
    "deep": lambda content: b"[" * 100_000,
    **{
        f"byte {n}/7": lambda content, n=n: flipped(content, len(content) * n // 7)
        for n in range(7)
    },
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder)
    return load_tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """Runs of pretraining and of a classifier; leave them as they are."""
    folder = tmp_path_factory.mktemp("whole")
    for name, task in (("pretrain", None), ("finetune", "classification")):
        run = random_run(folder / name, tokenizer, task)
        write_json(run / "results.json", {"eval": {"accuracy": 0.5}, "step": 0})
        log = MetricsLog(run, 0, LoopConfig())
        log.write("eval", 0, {"mlm_loss": 1.5, "accuracy": 0.5, "loss": 0.7})
        log.close()
    return folder


@pytest.fixture
def runs(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs"


def resume(tokenizer, run):
    start_run(run, load_run_config(run), load_run(run), tokenizer)


def commands(runs, tokenizer):
    """What reads the small files of a run, as far as it gets without training."""
    pretrain, finetune = str(runs / "pretrain"), str(runs / "finetune")
    return {
        "resume": functools.partial(resume, tokenizer, runs / "pretrain"),
        "evaluate": lambda: main(["evaluate", pretrain]),
        "predict": lambda: main(["predict", finetune, "the text"]),
        "checkpoints": lambda: main(["checkpoints", finetune]),
    }


FILES = {
    "config.json": ("resume", "evaluate", "predict", "checkpoints"),
    "run.json": ("resume", "evaluate", "predict", "checkpoints"),
    "results.json": ("predict",),
    f"tokenizer/{METADATA_FILE}": ("predict",),
    "tokenizer/MODEL": ("predict",),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=pytest.mark.slow(ci=False))
        if x == "tokenizer/MODEL"
        else x
        for x in FILES
    ],
)
def test_a_damaged_file_is_named_by_every_command(
    runs, tokenizer, capsys, refused, name
):
    main(["predict", str(runs / "finetune"), "the text"])
    answer = capsys.readouterr().out
    for command in FILES[name]:
        file = runs / (
            "finetune" if command in ("predict", "checkpoints") else "pretrain"
        )
        file /= name.replace("MODEL", tokenizer.model_file)
        content = file.read_bytes()
        for kind, damage in DAMAGE.items():
            file.write_bytes(damage(content))
            told = ""
            try:
                commands(runs, tokenizer)[command]()
            except (SystemExit, ValueError) as refused:
                told = f"{refused} {capsys.readouterr().err}"
            file.write_bytes(content)
            if not told:
                # Of a tokenizer's settings, those that decide ids are hashed.
                assert file.name == METADATA_FILE
                assert capsys.readouterr().out == answer, kind
                continue
            assert str(file) in told, (command, kind, told)
            assert "Traceback" not in told
        file.unlink()
        if name != "results.json":  # which a run that has not finished does not have
            with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as refused:
                commands(runs, tokenizer)[command]()
            assert file.name in f"{refused.value} {capsys.readouterr().err}"
        file.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_results_are_made_again(runs, capsys, kind):
    file = runs / "finetune" / "results.json"
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    assert finished_results(runs / "finetune") is None
    assert f"note: {file}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_metrics_are_said_and_the_others_are_kept(tmp_path, capsys, kind):
    lines = [{"kind": "train", "step": n, "loss": 1.5} for n in range(5)]
    log = MetricsLog(tmp_path, 0, LoopConfig())
    for line in lines:
        log.write("train", line["step"], {"loss": line["loss"]})
    log.close()
    texts = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    texts[2] = DAMAGE[kind](texts[2])
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(texts) + b"\n" + texts[0][:9])
    found = read_metrics(tmp_path)
    told = capsys.readouterr().err
    assert found == lines[:2] + lines[3:]
    assert f"note: {tmp_path / 'metrics.jsonl'} is damaged: 1 of its lines" in told
    assert "(line 3)" in told


def test_a_changed_digit_in_a_line_of_metrics_is_found(tmp_path, capsys):
    log = MetricsLog(tmp_path, 0, LoopConfig())
    for step in (1, 2):
        log.write("train", step, {"loss": 1.5})
    log.close()
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text().replace("1.5", "1.4", 1))
    assert [line["step"] for line in read_metrics(tmp_path)] == [2]
    assert "is damaged: 1 of its lines cannot be read" in capsys.readouterr().err
    # The next session keeps what it read, with the same checksums.
    MetricsLog(tmp_path, 3, LoopConfig()).close()
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 2, "loss": 1.5}]


def test_lost_metrics_are_said_and_the_run_goes_on(tmp_path, capsys):
    log = MetricsLog(tmp_path, 3, LoopConfig())
    log.close()
    assert log.elapsed_before == 0.0
    assert "metrics.jsonl has no line of the 3 steps" in capsys.readouterr().out


def test_what_was_written_is_read(tmp_path):
    value = {"a": (1, 2), "b": {3: None, 20: float("inf"), 100: "ü"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", "") == {
        "a": [1, 2],
        "b": {"3": None, "20": float("inf"), "100": "ü"},
    }


def test_checkpoints_are_listed_with_their_state(runs, capsys):
    run = runs / "pretrain"
    [found] = list_checkpoints(run)
    assert (found.place, found.step, found.damage) == ("checkpoints", 0, None)
    assert (found.metric, found.value, found.is_best) == ("mlm_loss", 1.5, True)
    size = sum(x.stat().st_size for x in run.glob("checkpoints/**/*") if x.is_file())
    assert found.bytes == size
    [tuned] = list_checkpoints(runs / "finetune")
    assert (tuned.metric, tuned.value) == ("accuracy", 0.5)
    main(["checkpoints", str(run)])
    assert "mlm_loss 1.5 (best)  whole" in capsys.readouterr().out
    file = run / "checkpoints/0/params/manifest.ocdbt"
    file.unlink()
    main(["checkpoints", str(run)])
    assert f"DAMAGED: {file} is missing" in capsys.readouterr().out
    main(["checkpoints", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["damage"] == f"{file} is missing"


def test_no_checkpoint_of_several_phases_is_the_best(runs):
    run = runs / "pretrain"
    cfg = load_run_config(run)
    cfg = dataclasses.replace(cfg, next_phases=(PhaseConfig(),))
    write_json(run / "config.json", config_json.to_values(cfg))
    [found] = list_checkpoints(run)
    assert (found.value, found.is_best) == (1.5, False)


def test_a_step_is_chosen_or_refused_by_name(runs, capsys, refused):
    for command in (
        ["predict", str(runs / "finetune"), "the text"],
        ["export", str(runs / "finetune"), "--output", str(runs / "out")],
    ):
        assert "has no checkpoint of step 7; there are [0]" in refused(
            *command, "--step", "7"
        )
    main(["predict", str(runs / "finetune"), "the text", "--step", "0"])
    assert "the text" in capsys.readouterr().out


def test_a_new_run_starts_from_the_step_that_it_names(runs):
    run = runs / "pretrain"
    shutil.copytree(run / "checkpoints/0", run / "checkpoints/5")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for step, taken in ((None, 5), (0, 0)):
        assert start_encoder(run, mesh, ("embed",), step).origin["step"] == taken
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3; .*\[0, 5\]"):
        start_encoder(run, mesh, ("embed",), 3)
    with pytest.raises(ValueError, match="checkpoint_step=3 would be ignored"):
        FinetuneConfig(checkpoint_step=3)
