"""The script of the real run: what it refuses, its arithmetic, its stops, and all of it."""

import json
import pathlib
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from prepared_corpus import WORDS

from benchmarks import evidence
from benchmarks.evidence_curves import calibrated, totals
from benchmarks.evidence_device import describe_device
from benchmarks.evidence_settings import (
    NUM_EVALS,
    RECIPES,
    default_model,
    fitting_steps,
    pretrain_config,
)
from benchmarks.evidence_stages import StageError, Stages, call
from benchmarks.evidence_tasks import TASKS, constant_score, task_flags
from bert_jax import cli
from bert_jax.data.tasks import load_examples
from bert_jax.family import SIZES, Size

DEVICE = {
    "platform": "cpu",
    "kind": "cpu",
    "count": 8,
    "product": "float32 [2048, 2048]",
    "peak_tflops": 0.1,
}


def in_process(argv):
    """Runs `bert-jax` here: a process of its own for each command takes too long."""
    try:
        cli.main(argv)
    except SystemExit as ended:
        return ended.code
    return 0


# Settings.


def test_tasks_are_the_files_as_they_are(shared_data):
    counts = {"sst2": 67_349, "cola": 8_551, "mrpc": 3_668, "stsb": 5_749}
    for task in TASKS:
        cfg = task.located(shared_data, None)
        assert len(load_examples(cfg.train, cfg)) == counts[task.name]
        assert load_examples(cfg.validation, cfg, "validation")
        parsed = cli.parse("finetune", ["--workdir", "w", *task_flags(cfg)])
        assert parsed.settings.task == cfg


def test_constant_answers_score_what_they_score(shared_data):
    results = {"majority_accuracy": 279 / 408, "confusion": [[29, 100], [9, 270]]}
    assert constant_score("accuracy", results) == pytest.approx(0.6838, abs=5e-5)
    # The F1 of MRPC's larger class, as it is known.
    assert constant_score("f1", results) == pytest.approx(0.8122, abs=5e-5)
    assert constant_score("matthews", results) == constant_score("pearson", {}) == 0.0


@pytest.mark.parametrize("model", RECIPES)
def test_every_recipe_is_a_config(model):
    for num_steps in (10, 100, 12_345):
        cfg = pretrain_config(
            RECIPES[model],
            model,
            vocab_size=30_522,
            platform="gpu",
            peak_tflops=800.0,
            num_steps=num_steps,
            seed=0,
        )
        every = cfg.loop.eval_every_steps
        assert len([*range(every, num_steps, every)]) + 1 == NUM_EVALS
        assert cfg.model.compute_dtype == "bfloat16"
        assert cfg.optimizer.warmup_steps < num_steps
    assert default_model("gpu") == default_model("tpu") == "base"
    assert default_model("cpu") == "tiny"


def test_steps_end_within_the_minutes():
    steps = fitting_steps(2.0, overhead_secs=20.0, step_secs=0.1, num_calibration=10)
    assert 20.0 + 0.1 * steps <= 120.0 < 20.0 + 0.1 * steps + 3.0
    message = r"--minutes 0.3 leaves time for 0 steps .* give 0.4 or more"
    with pytest.raises(ValueError, match=message):
        fitting_steps(0.3, overhead_secs=20.0, step_secs=0.1, num_calibration=10)


def test_a_vocabulary_is_given_or_trained_or_berts_own(folder, shared_data):
    def command(model, **changes):
        options = evidence.Options(**changes)
        argv = evidence._tokenizer(options, options.recipe(model))
        return cli.parse(argv[0], [*argv[1:], "--output", "x"]).how

    given = folder / "vocab.txt"
    assert command("tiny", vocab=given).vocab == given.resolve()
    of_bert = shared_data / "vocab/bert-base-uncased-vocab.txt"
    assert command("base").vocab == of_bert.resolve()
    assert command("base", vocab_size=99).options.vocab_size == 99
    assert command("tiny").options.vocab_size == 8_192


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--vocab", "no.txt"), "no.txt does not exist; give a WordPiece vocab.txt"),
        (("--vocab-size", "99"), "vocab.txt has its own size; leave out --vocab-size"),
        (("--source", "files:no/*.xz"), "no/*.xz does not exist; give text"),
        (("--only", "rte"), "--only rte: no such task; there are sst2, cola"),
        (("--seeds", "0"), "--seeds 0: expected 1 or more"),
        (("--tasks", "nowhere"), "nowhere/sst2/train.tsv does not exist; it should"),
        (("--minutes", "-1"), "--minutes -1.0: must be greater than 0"),
        (("--workdir", "."), ". is not empty and holds no run of this script"),
    ],
)
def test_what_is_missing_is_named_before_any_work(
    folder, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(evidence, "_describe_device", lambda: DEVICE)
    code = evidence.main([*arguments(folder), *flags], lambda argv: pytest.fail(argv))
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_missing_library_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(evidence, "_NEEDED", ("json", "tfds_of_tomorrow"))
    assert evidence.main(arguments(folder)) == 2
    assert "tfds_of_tomorrow not installed" in capsys.readouterr().err


def test_the_device_is_described():
    found = describe_device(128)
    assert (found["platform"], found["count"]) == ("cpu", 8)
    assert found["product"] == "float32 [128, 128]"
    assert 1e-5 < found["peak_tflops"] < 10.0


# Arithmetic over a run's lines.

LINES = [
    {"kind": "train", "step": 10, "elapsed_secs": 9.0, "tokens_per_sec": 1.0},
    {"kind": "eval", "step": 10},
    {"kind": "train", "step": 20, "elapsed_secs": 11.0, "tokens_per_sec": 500.0},
    {"kind": "train", "step": 40, "elapsed_secs": 15.0, "tokens_per_sec": 500.0},
]


def write_lines(run, cut=""):
    run.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (run / "metrics.jsonl").write_text(text + cut)


def test_totals_leave_the_step_that_compiles_out():
    lines = [line | {"mfu": 0.25} for line in LINES]
    found = totals(lines, 80, peak=1e6)
    # 100 tokens and 5e4 FLOPs a step.
    assert found["tokens"] == pytest.approx(80 * 100)
    assert found["flops"] == pytest.approx(80 * 0.25 * 1e6 * 0.2)
    assert found["tokens_per_sec"] == pytest.approx(500)
    assert found["mfu"] == pytest.approx(0.25)
    assert totals(lines[:1], 10, peak=1e6) == {}


def test_a_calibration_tells_steps_from_all_else(tmp_path):
    stages = Stages(tmp_path, lambda line: None, lambda argv: 0)
    stages.run("calibration", ["pretrain"])
    stages.records["calibration"]["seconds"] = 30.0
    write_lines(tmp_path / "calibration")
    assert calibrated(stages, "calibration", 40) == pytest.approx((22.0, 0.2))


# Stages.


def test_done_stages_are_not_done_again(tmp_path):
    ran = []

    def run(argv):
        ran.append(list(argv))
        return {"b": 3, "c": 130}.get(argv[0], 0)

    for _ in range(2):
        stages = Stages(tmp_path, lambda line: None, run)
        stages.run("first", ["a"])
        with pytest.raises(StageError, match="second ended with exit code 3"):
            stages.run("second", ["b"])
        with pytest.raises(KeyboardInterrupt):
            stages.run("third", ["c"])
    assert ran == [["a"], ["b"], ["c"], ["b"], ["c"]]
    kept = json.loads((tmp_path / "stages.json").read_text())
    assert [record["done"] for record in kept.values()] == [True, False, False]
    assert stages.kept("x", lambda: {"n": 1}) == {"n": 1}
    assert stages.kept("x", lambda: {"n": 2}) == {"n": 1}


_CHILD = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (folder / "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
(folder / "ready").touch()
time.sleep(60)
"""


def test_a_stopped_script_lets_its_command_save(tmp_path):
    def interrupt(number, frame):
        if (tmp_path / "ready").exists():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    started = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            call([sys.executable, "-c", _CHILD, str(tmp_path)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "saved").exists()
    assert time.perf_counter() - started < 30.0


# All of it.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text, a vocabulary and the four tasks in their forms, all of eight words."""
    folder = tmp_path_factory.mktemp("evidence")
    rng = np.random.default_rng(0)

    def sentence():
        return " ".join(rng.choice(WORDS, 5)) + "."

    documents = [" ".join(sentence().capitalize() for _ in range(8)) for _ in range(90)]
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")

    def write(name, header, row, count):
        (folder / name).parent.mkdir(exist_ok=True)
        lines = [*([header] if header else []), *(row(n % 2) for n in range(count))]
        (folder / name).write_text("\n".join(lines) + "\n")

    def pair(label):
        one = sentence()
        return f"{label}\t1\t2\t{one}\t{one if label else sentence()}"

    def scored(label):
        return (
            "x\t" * 7
            + "\t".join(reversed(pair(label).split("\t")[-2:]))
            + (f"\t{4.5 * label + 0.25}")
        )

    for name, count in (("train", 64), ("dev", 32)):
        text = "sentence" if name == "train" else "content"
        write(
            f"sst2/{name}.tsv",
            f"label\t{text}",
            lambda label: f"{label}\t{'stone ' * label}{sentence()}",
            count,
        )
        write(
            f"cola/{name}.tsv", None, lambda label: f"s\t{label}\t\t{sentence()}", count
        )
        columns = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
        write(f"mrpc/{name}.tsv", f"\ufeff{columns}", pair, count)
        columns = "index\tgenre\tfile\tyear\told\ts1\ts2\tsentence1\tsentence2\tscore"
        write(f"stsb/{name}.tsv", columns, scored, count)
    return folder


def arguments(folder: pathlib.Path) -> list[str]:
    return [
        *("--source", f"files:{folder}/text.txt", "--vocab", str(folder / "vocab.txt")),
        *("--tasks", str(folder), "--output", str(folder / "results")),
        *("--workdir", str(folder / "work"), "--model", "tiny", "--minutes", "1"),
        *("--calibration-steps", "10", "--batch-size", "16", "--sequence-length", "32"),
        *("--tune-epochs", "2", "--tune-batch-size", "16"),
    ]


@pytest.fixture
def small(monkeypatch):
    """A model that compiles fast, and as many steps as it takes to see some."""
    monkeypatch.setattr(evidence, "_describe_device", lambda: DEVICE)
    monkeypatch.setattr(evidence, "fitting_steps", lambda minutes, **_: 12)
    monkeypatch.setitem(SIZES, "tiny", Size(1, 16, 2))


def test_the_whole_way_with_a_stop_in_it(folder, small, capsys):
    argv = [*arguments(folder), "--only", "stsb"]
    ran = []

    def stop_at_the_second_arm(command):
        ran.append(command[0])
        if command[-1].endswith("calibration"):  # like pretraining, and shorter
            return write_lines(pathlib.Path(command[-1]))
        if "--from-scratch" in command:
            write_lines(folder / "work/stsb-random-0", '{"kind": "tr')
            return 130
        return in_process(command)

    assert evidence.main(argv, stop_at_the_second_arm) == 130
    assert ran == ["tokenizer", "prepare", "pretrain", "pretrain", *["finetune"] * 2]
    (found,) = (folder / "results").glob("evidence-*.json")
    first = json.loads(found.read_text())
    assert not first["complete"]
    assert first["unfinished"] == {"stsb-random-0": LINES}
    shutil.rmtree(folder / "work/stsb-random-0")
    assert [len(first["tasks"]["stsb"][arm]) for arm in evidence.ARMS] == [1, 0]
    assert "**Interrupted**" in found.with_suffix(".md").read_text()

    again = []

    def finish(command):
        """A stand-in for the other arm, whose commands test_quickstart.py runs."""
        again.append(command[-1])
        run = folder / "work/stsb-random-0"
        shutil.copytree(folder / "work/stsb-pretrained-0", run)
        other = json.loads((run / "results.json").read_text()) | {"encoder": None}
        other["eval"]["pearson"] = -0.25
        (run / "results.json").write_text(json.dumps(other))
        return 0

    assert evidence.main(argv, finish) == 0
    assert again == ["--from-scratch"]  # and nothing of what was done
    result = json.loads(found.read_text())
    assert result["complete"]
    assert result["pretrain"]["step"] == 12
    assert result["pretrain"]["tokens"] == pytest.approx(12 * 16 * 32, rel=0.2)
    assert result["pretrain"]["flops"] > 0
    for arm in evidence.ARMS:
        (one,) = result["tasks"]["stsb"][arm]
        assert {"pearson", "spearman"} <= one["eval"].keys()
        assert (one["encoder"] is None) == (arm == "random")
        assert one["num_train"] == 64
        assert one["seconds"] > 0
    pearson = result["tasks"]["stsb"]["pretrained"][0]["eval"]["pearson"]
    text = found.with_suffix(".md").read_text()
    row = "| STS-B | 64 / 32 | Pearson correlation | 0.0 (no correlation) | -25.0 | "
    assert f"{row}{100 * pearson:.1f} | {100 * pearson + 25:+.1f} |" in text
    assert "Interrupted" not in text

    capsys.readouterr()
    for flag, value, name in (
        ("--learning-rate", "1e-5", "learning_rate=0.002, and 1e-05"),
        ("--minutes", "2", "minutes=1.0, and 2.0"),
    ):
        code = evidence.main([*argv, flag, value], lambda argv: pytest.fail(argv[0]))
        assert code in (1, 2)
        assert f"holds a run with {name}" in capsys.readouterr().err


def test_a_fine_tuning_that_fails_is_named_and_the_others_go_on(folder, small):
    """After the run above, whose pretraining is there."""
    argv = [*arguments(folder), "--only", "cola", "stsb"]
    ran = []
    assert evidence.main(argv, lambda a: ran.append(a[-1]) or 1) == 1
    assert len(ran) == 2
    (found,) = (folder / "results").glob("evidence-*.json")
    text = found.with_suffix(".md").read_text()
    assert "**failed**: cola-pretrained-0 ended with exit code 1" in text
    assert "| STS-B | 64 / 32 |" in text
