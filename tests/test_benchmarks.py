"""The frame of the benchmarks, their arithmetic, and the work that they measure."""

import dataclasses
import json
import math

import numpy as np
import pytest

from benchmarks import correctness, data_runners, evidence, machine, train, turns
from benchmarks.results import Figure, Report, Table
from benchmarks.step_jax import JaxStep, run_config
from benchmarks.turns import Candidate, Clock, Measured, RepeatedStep, fastest, ratios
from benchmarks.workload import (
    Task,
    check_untrained,
    mask_rows,
    synthetic_batch,
    work_of,
)
from bert_jax.config import ComputeConfig
from bert_jax.train.flops import pretrain_work, train_flops
from bert_jax.train.tasks import task_named

TINY = Task(size="test", length=32, packed=True, vocab_size=61)


def measured(name: str, *turns: tuple[float, float]) -> Measured:
    """A candidate with turns of (seconds, steps)."""
    done = [{"seconds": seconds, "steps": steps} for seconds, steps in turns]
    return Measured(Candidate(name=name, runner=""), done)


# Statistics


def test_a_ratio_is_taken_turn_by_turn():
    mine = measured("mine", (1.0, 10.0), (2.0, 10.0), (1.0, 30.0))
    theirs = measured("theirs", (1.0, 5.0), (1.0, 5.0))
    assert mine.rates("steps", 2.0) == (20.0, 10.0, 60.0)
    # The third turn has no other to stand beside.
    assert ratios(mine, theirs, "steps") == (2.0, 1.0)


def test_the_fastest_has_the_highest_median():
    steady = measured("steady", (1.0, 5.0), (1.0, 5.0), (1.0, 5.0))
    lucky = measured("lucky", (1.0, 4.0), (1.0, 4.0), (1.0, 90.0))
    assert fastest([lucky, steady], "steps") is steady
    assert fastest([], "steps") is None


def test_our_fastest_stands_over_their_fastest_of_the_same_type():
    ways = (
        train.Way("bert_jax", "float32", {"remat": "dots"}),
        train.Way("bert_jax", "float32"),
        train.Way("PyTorch", "float32"),
        train.Way("PyTorch", "float32", {"compile": True}),
        train.Way("bert_jax", "fp8"),
        train.Way("PyTorch", "bfloat16"),
    )
    names = [way.name for way in ways]
    assert names[:4:3] == ["bert_jax, float32, remat dots", "PyTorch, float32, compile"]
    speeds = (1.0, 6.0, 2.0, 3.0, 5.0, 2.0)
    found = [
        measured(name, (1.0, speed), (1.0, 2 * speed))
        for name, speed in zip(names, speeds, strict=True)
    ]
    table = Table("one")
    plan = train.Plan(TINY, 2, (ways,))
    train.add_figures(plan, found, {"float32": 1e9, "bfloat16": 2e9}, table)
    values = {(f.of, f.what): f.values for f in table.figures}
    assert values[f"**{names[1]} / {names[3]}**", "ratio"] == (2.0, 2.0)
    # PyTorch has no 8-bit floats here.
    assert values[f"**{names[4]} / {names[5]}**", "ratio"] == (2.5, 2.5)
    assert [f.what for f in table.figures].count("ratio") == 2
    work = work_of(TINY, synthetic_batch(TINY, 2))
    flops = train_flops(TINY.model(), work)
    assert values[names[1], "sequences"] == (6 * work.sequences, 12 * work.sequences)
    shares = values[names[4], "of the peak"]
    assert shares == pytest.approx((500 * flops / 2e9, 1000 * flops / 2e9))


class CountedStep(RepeatedStep):
    def __init__(self):
        self.counts = []
        self._step_secs = 0.5

    def run(self, count):
        self.counts.append(count)


def test_the_first_step_of_a_turn_is_not_measured():
    step = CountedStep()
    done = step.turn(0, 2.0)
    assert step.counts == [1, 3]
    assert done["steps"] == 3


def test_the_median_is_held_against_the_bound():
    def figure(*values, at_most=None):
        return Figure(of="", what="", unit="", values=values, at_most=at_most)

    assert figure(9.0, 1.0, 2.0).median == 2.0
    assert not figure(9.0, 1.0, 2.0, at_most=2.0).is_wrong
    assert figure(9.0, 1.0, 3.0, at_most=2.0).is_wrong
    assert figure(math.nan, at_most=2.0).is_wrong
    assert not figure(math.nan).is_wrong


@pytest.mark.parametrize(
    ("start_secs", "seconds"),
    # Of 100 s; a share of what is left where the start took long.
    [
        (0.0, 20.0),
        (10.0, 10.0),
        (19.0, 0.35 * 0.2 * 81.0),
        (39.0, 0.35 * 0.2 * 61.0),
        (50.0, None),
    ],
)
def test_a_slow_start_leaves_time_for_turns(monkeypatch, start_secs, seconds):
    now = 1_000.0

    class Worker:
        candidate = Candidate(name="toy", runner="")

        def turn(self, number, seconds, limit):
            nonlocal now
            now += seconds
            return {"seconds": seconds}

    def start(candidates, table, clock, workers):
        nonlocal now
        is_ready = start_secs < clock.left
        now += min(start_secs, clock.left)
        return [(Worker(), None)] if is_ready else []

    monkeypatch.setattr(turns, "_start", start)
    monkeypatch.setattr(turns.time, "monotonic", lambda: now)
    found = turns.measure([], Table(""), Clock.of(100.0), share=0.2, turn_secs=100.0)
    if seconds is None:
        assert not found
        assert now == 1_040.0
    else:
        took = sum(turn["seconds"] for turn in found[0].turns)
        assert 0.75 * seconds < took <= seconds


def test_the_files_hold_every_repetition_and_what_is_missing(tmp_path):
    about = {
        "machine": "toy",
        "date": "2026-01-02",
    }
    report = Report("train", about, "A toy.", {"minutes": 1.0}, tmp_path / "new")
    table = report.table("One", "About it.")
    table.add("ours", "speed", "/s", 3.0, 1.0, 2.00004)
    table.add("theirs", "speed", "/s", 1234.0)
    table.add("ours", "error", "", 2.0, at_most=1.0)
    table.leave_out("others", "not installed")
    assert report.exit_code == 1
    report.table("Two")
    paths = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in paths] == [
        "train-toy-2026-01-02.json",
        "train-toy-2026-01-02.md",
    ]
    written = json.loads(paths[0].read_text())
    (kept,) = written["tables"]
    assert kept["not_measured"] == ["others: not installed"]
    assert kept["figures"][0] == {
        "of": "ours",
        "what": "speed",
        "unit": "/s",
        "values": [3.0, 1.0, 2.0],
        "at_most": None,
    }
    text = paths[1].read_text()
    assert "| | speed, /s | error |" in text
    assert "| ours | 2 (1–3) | 2 (**wrong**, at most 1) |" in text
    assert "| theirs | 1,234 |  |" in text
    assert "- not measured: others: not installed" in text
    assert "**Not correct on this machine**" in text
    assert "A toy." in text


def test_a_machine_has_a_short_name():
    def name(cpu, **device):
        return machine.short_name({"platform": "cpu", **device}, cpu, 8)

    assert name("AMD EPYC 7B13 64-Core Processor") == "amd-epyc-7b13-8core"
    assert name("Intel(R) Xeon(R) CPU @ 2.20GHz") == "intel-xeon-8core"
    assert name("any", platform="gpu", kind="NVIDIA H200") == "nvidia-h200"


# Evidence


def test_tasks_are_the_files_as_they_are(shared_data, tmp_path):
    counts = {"sst2": 67_349, "cola": 8_551, "mrpc": 3_668, "stsb": 5_749}
    counts |= {"trec": 5_452, "wnut17": 3_394, "squad": 6_500}
    for name, located in evidence.Options(tasks=shared_data).chosen().items():
        task = task_named(located.config.kind)
        cfg = task.settled(located.config)
        if name == "trec":
            train = evidence.write_trec(cfg.train, tmp_path / "trec.tsv")
            found = task.read(train, cfg, "train")
            assert found.texts[1] == (
                "What films featured the character Popeye Doyle ?",
            )
            assert len(set(found.labels)) == 6
            assert len(found) == counts[name]
            continue
        assert len(task.read(cfg.train, cfg, "train")) == counts[name]
        assert len(task.read(cfg.dev, cfg, "validation"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("rte",)}, "--only rte: no such task; there are sst2, cola"),
        ({"seeds": 0}, "--seeds 0: expected 1 or more"),
        ({"minutes": -1.0}, "--minutes -1.0: expected more than 0"),
    ],
)
def test_what_evidence_cannot_do_is_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evidence.Options(tasks=tmp_path, **options).chosen()
    with pytest.raises(FileNotFoundError, match=r"train.tsv does not exist; it should"):
        evidence.Options(tasks=tmp_path).chosen()


# The work that is measured


def test_packed_rows_have_about_the_mean_length_of_mlperf():
    task = Task(size="large", length=512, packed=True)
    batch = synthetic_batch(task, 64)
    work = work_of(task, batch)
    assert work.tokens == batch.input_ids.size
    assert work.tokens / work.sequences == pytest.approx(254.0, abs=2.0)


@pytest.mark.parametrize(
    "task",
    [
        Task(size="base", length=128),
        Task(size="base", length=128, packed=True),
        Task(size="small", length=128, packed=True, modern=True),
    ],
    ids=lambda task: task.name,
)
def test_work_is_what_training_counts(task):
    batch = synthetic_batch(task, 6)
    masked = mask_rows(task, batch)
    counted = pretrain_work(batch, masked.weights)
    assert work_of(task, batch) == tuple(map(float, counted))
    hidden = np.take_along_axis(masked.input_ids, masked.positions, 1)
    assert (hidden == 4).all()
    assert (masked.labels > 4).all()
    assert (np.diff(masked.positions) > 0).all()


def test_an_untrained_model_has_the_loss_of_guessing():
    check_untrained(np.log(61) + np.log(2) + 0.1, TINY)
    for wrong in (0.0, 9.0, float("nan")):
        with pytest.raises(ValueError, match="untrained"):
            check_untrained(wrong, TINY)


def test_a_modernbert_is_trained_without_pairs_and_dropout():
    """`JaxStep` checks that its loss is that of guessing, without sentence pairs."""
    task = Task(size="small", length=32, packed=True, vocab_size=61, modern=True)
    assert task.untrained_loss == pytest.approx(np.log(61))
    step = JaxStep(dataclasses.asdict(task), "cpu", "float32", 2, scan_layers=True)
    step.check()
    assert step.turn(0, 0.1)["steps"] > 0


def test_every_text_of_the_sample_is_in_one_part(tmp_path):
    lines = [json.dumps({"text": letter}) for letter in "abcdefg"]
    (tmp_path / "sample.jsonl").write_text("\n".join(lines) + "\n")
    parts = data_runners.read_parts(tmp_path, 3)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted("".join(map("".join, parts))) == list("abcdefg")


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("task", [TINY, correctness.TASKS[1]], ids=lambda x: x.title)
def test_training_is_correct_here_and_a_wrong_model_is_found(
    task, transformers, monkeypatch
):
    def wrong():
        facts = correctness.compare("xla", dataclasses.asdict(task))
        return {(of, what) for of, what, value, bound in facts if not value <= bound}

    assert not wrong()
    honest = correctness.jax_results

    def unmasked(task, params, compute):
        other = dataclasses.replace(task, packed=False)
        return honest(other if compute.dtype == "float32" else task, params, compute)

    monkeypatch.setattr(correctness, "jax_results", unmasked)
    (of,) = {of for of, _ in wrong()}
    assert of == f'{task.title}, attention "xla", float32'


@pytest.mark.parametrize("platform", train.PLANS)
def test_every_way_has_a_name_of_its_own(platform):
    for plan in train.PLANS[platform]:
        ways = [way for group in plan.groups for way in group]
        assert len({way.name for way in ways}) == len(ways)
        for way in ways:
            if way.library == "bert_jax":
                run_config(plan.task, way.dtype, plan.rows, **way.options)
    with pytest.raises(ValueError, match=f"no such model on a {platform}; there are"):
        train.choose(platform, ["pears"])


def test_kernels_of_the_check_are_kernels():
    for kernels in correctness.KERNELS.values():
        for kernel in kernels:
            ComputeConfig(attention=kernel)
