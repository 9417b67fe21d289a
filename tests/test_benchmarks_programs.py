"""Each benchmark from its command to its files, on settings that take a moment."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from prepared_corpus import WORDS
from processes import is_running

from benchmarks import data, data_runners, evidence, gpu, machine, train
from benchmarks.results import Table
from benchmarks.turns import Candidate, Clock, Worker, WorkerError, ask, measure
from benchmarks.workload import Task
from bert_jax.train import planned_steps
from bert_jax.train.planned_steps import PlannedSteps

pytestmark = pytest.mark.slow(ci=False)


class Toy:
    """A runner that does what the test asks of it."""

    def __init__(self, fails: str = "", child: bool = False) -> None:
        if fails == "at once":
            raise ValueError("no such thing\nsecond line")
        if fails == "to start":
            time.sleep(600)
        wait = "import time; time.sleep(600)"
        self._about = {
            "cores": len(os.sched_getaffinity(0)),
            "huge pages": os.environ.get("GLIBC_TUNABLES"),
            "child": subprocess.Popen([sys.executable, "-c", wait]).pid if child else 0,
        }
        self._fails = fails

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        if self._fails == "to end":
            time.sleep(600)
        if self._fails == "in turn 1" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"seconds": 2.0, "number": number, "given": seconds, **self._about}


def toy(name: str, **more: object) -> Candidate:
    candidate = Candidate(name=name, runner="test_benchmarks_programs:Toy")
    return dataclasses.replace(candidate, **more)


@pytest.fixture
def started(monkeypatch):
    """Of the commands that the test starts: JAX on the CPU, one device."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# Processes


def test_candidates_have_their_turns_in_processes():
    table = Table("toys")
    candidates = [
        toy("good", one_core=True, huge_pages=True, arguments={"child": True}),
        toy("bad", arguments={"fails": "at once"}),
        toy("dying", arguments={"fails": "in turn 1"}),
    ]
    good, dying = measure(candidates, table, Clock.of(240.0), turn_secs=0.25)
    assert [turn["number"] for turn in good.turns] == [0, 1, 2, 3, 4]
    assert good.rates("given") == (0.125,) * 5
    assert good.turns[0]["cores"] == 1
    assert good.turns[0]["huge pages"] == "glibc.malloc.hugetlb=1"
    assert len(dying.turns) == 1
    assert table.left_out == [
        "bad: ValueError: no such thing",
        "dying, from turn 2 on: its process ended with exit code -9",
    ]
    deadline = time.monotonic() + 20.0
    while is_running(good.turns[0]["child"]):
        assert time.monotonic() < deadline


def test_what_does_not_fit_the_time_is_named():
    table = Table("toys")
    assert ask([toy("late", arguments={"fails": "to start"})], table, 1.0) == []
    assert table.left_out == ["late: it was not ready in time"]
    worker = Worker(toy("endless", arguments={"fails": "to end"}))
    try:
        worker.answer(240.0)
        with pytest.raises(WorkerError, match="it was not done after 1 s"):
            worker.turn(0, seconds=1.0, limit=1.0)
    finally:
        worker.close()


def test_a_stopped_process_ends_with_its_parent():
    code = (
        "import time\n"
        "from test_benchmarks_programs import toy\n"
        "from benchmarks.turns import Worker\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker(toy('one'))\n"
        "    worker.answer(240.0)\n"
        "    print(worker._process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        number = int(parent.stdout.readline())
        assert is_running(number)
        parent.kill()
    deadline = time.monotonic() + 20.0
    while is_running(number):
        assert time.monotonic() < deadline


# Programs


def read_results(folder: pathlib.Path, name: str) -> dict[str, list[dict]]:
    """Title -> figures of the one result file."""
    (path,) = folder.glob(f"{name}-*.json")
    assert path.with_suffix(".md").exists()
    written = json.loads(path.read_text())
    return {table["title"]: table["figures"] for table in written["tables"]}


def test_train(tmp_path, monkeypatch, started, transformers):
    ways = (
        train.Way("bert_jax", "float32"),
        train.Way("PyTorch", "float32"),
        train.Way("bert_jax", "float32", {"attention": "splash"}),
    )
    task = Task(size="test", length=16, vocab_size=61)
    monkeypatch.setitem(train.PLANS, "cpu", (train.Plan(task, 2, (ways,)),))

    def shortly(report):
        report.table("Peak").add("all", "peak", "GFLOP/s", 1.0)
        return {"float32": 1e9}

    monkeypatch.setattr(train, "correct_and_peaks", shortly)
    monkeypatch.setitem(train._TURN_SECS, "cpu", 0.1)
    argv = ["train", "--minutes", "60", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    assert train.main() == 0
    (figures,) = (
        figures
        for title, figures in read_results(tmp_path, "train").items()
        if title.startswith("BERT-test")
    )
    assert {f["of"] for f in figures[:8]} == {way.name for way in ways[:2]}
    ratio = figures[-1]
    assert ratio["what"] == "ratio"
    assert len(ratio["values"]) == 5
    mine, its = (f["values"] for f in figures if f["what"] == "sequences")
    assert ratio["values"] == pytest.approx(
        [a / b for a, b in zip(mine, its, strict=True)], rel=1e-3
    )


def test_a_gpu_needs_no_library_of_data():
    code = (
        "import sys\n"
        "for name in ('grain', 'tensorflow_datasets', 'array_record'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.gpu, benchmarks.step_jax, benchmarks.correctness\n"
    )
    root = pathlib.Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)


def test_gpu_is_for_gpus(tmp_path, monkeypatch, started, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--output", str(tmp_path)])
    assert gpu.main() == 1
    assert "JAX found a cpu here, not an NVIDIA GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_peaks_are_of_the_faster_library(started, transformers, monkeypatch):
    monkeypatch.setitem(machine._SIZES, "cpu", 32)
    for library in ("JAX", "PyTorch"):
        found = machine.peaks_of(library, "cpu")
        assert found.keys() == {"float32", "bfloat16"}
        assert min(found.values()) > 0.0

    peaks = {"JAX": {"float32": 3.0, "bfloat16": 1.0}, "PyTorch": {"float32": 5.0}}
    monkeypatch.setattr(machine, "ask", lambda asked, *_: [peaks[asked[0].name]])
    assert machine.measure_peaks("cpu", Table("")) == {"float32": 5.0, "bfloat16": 1.0}
    assert machine.measure_peaks("gpu", Table("")) == peaks["JAX"]


@pytest.fixture
def text(tmp_path):
    """A file of text in a few hundred words."""
    rng = np.random.default_rng(0)
    letters = rng.choice(list("abcdefghijkl"), (300, 6))
    words = [*WORDS, *map("".join, letters)]
    documents = []
    for _ in range(400):
        rows = rng.choice(words, (8, 6))
        documents.append(" ".join(f"{' '.join(row).capitalize()}." for row in rows))
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


def test_data(tmp_path, text, monkeypatch, started):
    argv = ["data", "--source", f"files:{text}"]
    argv += ["--output", str(tmp_path / "results"), "--vocab-size", "100"]
    argv += ["--minutes", "60"]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr(data, "num_cores", lambda: 1)
    monkeypatch.setattr(data, "measure", functools.partial(measure, turn_secs=0.1))
    assert data.main() == 0
    results = read_results(tmp_path / "results", "data")
    assert len(results) == 4
    for kind in ("WordPiece", "SentencePiece"):
        shares = [
            f["values"]
            for f in results["Preparing, stage by stage"]
            if f["unit"] == "%" and f["of"].startswith(kind)
        ]
        assert len(shares) == len(data_runners.STAGES)
        np.testing.assert_allclose(np.sum(shares, axis=0), 100.0, rtol=1e-4)
    every = [(f["of"], f["what"], f["unit"]) for x in results.values() for f in x]
    for kind in ("WordPiece", "SentencePiece"):
        assert (f"{kind}, bare", "ours is faster by", "x") in every
    pytest.importorskip("datasets")
    for name in ("datasets", "collator"):
        assert (f"WordPiece, {name}", "ours is faster by", "x") in every
    # Every candidate encodes the same text, so the ratio of MB/s is that of tokens.
    figures = results["Tokenising, one core"]
    speeds = {(f["of"], f["unit"]): np.array(f["values"]) for f in figures}
    ours, bare = (
        speeds[f"WordPiece, {way}", "MB/s"] / speeds[f"WordPiece, {way}", "M tokens/s"]
        for way in ("ours", "bare")
    )
    np.testing.assert_allclose(ours, bare, rtol=1e-3)


def test_a_stopped_run_keeps_what_it_has(tmp_path, started):
    code = (
        "import os, signal, sys\n"
        "import benchmarks.data as data\n"
        "def part(folder, report, clock):\n"
        "    report.table('Part').add('ours', 'speed', '/s', 1.0)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "data.make_inputs = lambda *args: None\n"
        "data.PARTS = {'tokenize': part, 'prepare': None}\n"
        "sys.exit(data.main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "--output", str(tmp_path)], timeout=300
    )
    assert ended.returncode == 130
    assert list(read_results(tmp_path, "data")) == ["Part"]
    (path,) = tmp_path.glob("*.md")
    assert "**Interrupted**" in path.read_text()


@pytest.fixture
def tasks(tmp_path):
    """STS-B in its form, of eight words."""
    rng = np.random.default_rng(1)

    def sentence():
        return " ".join(rng.choice(WORDS, 5)) + "."

    for name, count in (("train", 32), ("dev", 16)):
        rows = ["sentence1\tsentence2\tscore"]
        for number in range(count):
            one = sentence()
            same = number % 2
            rows.append(f"{one}\t{one if same else sentence()}\t{4.5 * same + 0.25}")
        (tmp_path / "stsb").mkdir(exist_ok=True)
        (tmp_path / "stsb" / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_evidence_goes_on_where_it_was_stopped(
    tmp_path, text, tasks, monkeypatch, started
):
    pretrain, tuning = evidence.TINY.pretrain, evidence.TINY.finetune
    small = dataclasses.replace(
        pretrain.model, vocab_size=100, num_layers=1, hidden_size=16, mlp_size=32
    )
    recipe = evidence.TINY._replace(
        pretrain=dataclasses.replace(pretrain, model=small),
        finetune=dataclasses.replace(tuning, num_epochs=1, batch_size=16),
    )
    monkeypatch.setattr(evidence, "TINY", recipe)
    monkeypatch.setattr(evidence, "measure_peaks", lambda *args: {"float32": 1e11})
    plan = PlannedSteps(num_steps=12, step_secs=0.1, overhead_secs=1.0)
    monkeypatch.setattr(planned_steps, "planned_steps", lambda cfg, minutes: plan)
    options = evidence.Options(
        source=f"files:{text}",
        tasks=tasks,
        only=("stsb",),
        folder=tmp_path / "work",
        output=tmp_path / "results",
    )

    from bert_jax.train import finetune as module

    honest = module.finetune

    def stopped(cfg, run):
        if not cfg.from_scratch:
            raise KeyboardInterrupt
        return honest(cfg, run)

    monkeypatch.setattr(module, "finetune", stopped)
    assert evidence.run(options) == 130
    (path,) = (tmp_path / "results").glob("*.md")
    assert "**Interrupted**" in path.read_text()
    assert "STS-B, pearson" in path.read_text()
    monkeypatch.setattr(module, "finetune", honest)
    assert evidence.run(options) == 0
    text = path.read_text()
    assert "Interrupted" not in text
    scores, course = read_results(tmp_path / "results", "evidence").values()
    found = {(f["of"], f["what"]): f["values"] for f in (*scores, *course)}
    of = "STS-B, pearson"
    (random,), (pretrained,) = found[of, "random weights"], found[of, "pretrained"]
    assert found[of, "gain"] == pytest.approx([pretrained - random], abs=1e-2)
    assert found[of, "training examples"] == [32.0]
    assert ("12 steps", "held-out MLM loss") in found
    assert found["12 steps", "wall"][0] > 0.0
