"""Models of `benchmarks.run`: candidates in turns, and the plans for a GPU."""

import dataclasses
import importlib
import importlib.util
import subprocess
import sys

import pytest
from benchmark_sections import TESTS, run_settings

from benchmarks import (
    train_sections,
    train_turns,
)
from benchmarks.measure import Findings
from benchmarks.run_settings import PEAK, RunSettings
from benchmarks.train_candidates import Candidate, Order
from benchmarks.train_models import Task
from benchmarks.train_plans import PLANS, Plan, Ratio
from benchmarks.train_turns import Contest, Measured

TASK = Task(size="test", length=16, vocab_size=61)
OURS = Candidate(library="bert_jax", dtype="float32", rows=2)
PEER = Candidate(
    library="PyTorch",
    dtype="float32",
    rows=2,
    options={"attention": "sdpa", "gather": True, "fused": True},
)


@pytest.fixture
def settings(tmp_path) -> RunSettings:
    return run_settings(tmp_path)


@pytest.fixture
def contest(tmp_path, findings):
    """contest(seconds_left) -> (Contest, list that it reports to)."""

    def make(seconds_left=lambda: 60.0, **more):
        reported: list[Measured] = []
        made = Contest(
            folder=tmp_path,
            findings=findings,
            seconds_left=seconds_left,
            report=reported.append,
            **more,
        )
        return made, reported

    return make


def order(candidate: Candidate, task: Task = TASK) -> Order:
    return Order(task=task, candidate=candidate, platform="cpu")


# Candidates in turns


def test_ours_and_a_peer_are_measured(
    settings, findings, found, workers_on_cpu, monkeypatch, transformers
):
    plan = Plan(
        task=TASK,
        candidates=(OURS, PEER, dataclasses.replace(OURS, options={"num_layer": 3})),
        num_quick=2,
        ratios=(Ratio(ours=("float32",), theirs=("float32",), at_least=1e-3),),
        devices=("cpu",),
        sequences_per_sec={"bfloat16": 1e9},
    )
    monkeypatch.setitem(PLANS, "cpu", (plan,))
    monkeypatch.setattr(train_turns, "_SHORTEST_TURN_SECS", 0.05)
    monkeypatch.setattr(train_turns, "_LONGEST_TURN_SECS", 0.05)
    peaks = settings.findings(PEAK)
    peaks.parent.mkdir()
    with Findings(peaks) as measured:
        measured.figure("peak", "GFLOP/s", 50.0, of="JAX, float32")
        measured.figure("peak", "GFLOP/s", 200.0, of="PyTorch, float32")
    train_sections.measure_model(settings, findings, TASK.name)
    figures, left_out = found()
    assert len(left_out) == 1
    assert "num_layer" in left_out[0]
    by_name = {(f.of, f.what): f for f in figures}
    for candidate in (OURS, PEER):
        rate = by_name[candidate.name, "sequences"]
        assert 3 <= len(rate.values) <= 5
        # Rows are full: T tokens a sequence.
        tokens = by_name[candidate.name, "real tokens"]
        assert tokens.values == pytest.approx([16 * x for x in rate.values])
        useful = by_name[candidate.name, "useful"].median
        share = by_name[candidate.name, "of the peak"].median
        assert share == pytest.approx(100 * useful / 200.0)
        assert by_name[candidate.name, "peak memory"].median > 0.05
    assert by_name[OURS.name, "compile time"].median > 0
    ratio = by_name["", "float32: fastest of ours / fastest peer"]
    assert ratio.met is True
    mine, its = (by_name[c.name, "sequences"].values for c in (OURS, PEER))
    expected = [a / b for a, b in zip(mine, its, strict=False)]
    assert ratio.values == pytest.approx(expected)


def test_peers_that_are_not_installed_are_named(settings, findings, found, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plan = Plan(task=TASK, candidates=(OURS, PEER), num_quick=2)
    assert train_sections.orders_of(plan, settings, findings) == [order(OURS)]
    assert found()[1] == [
        "the peers: torch, transformers not installed; pip install -e '.[bench]'"
    ]


def test_speed_is_measured_without_the_libraries_of_data_and_peers():
    code = (
        "import sys\n"
        "for name in ('grain', 'tensorflow_datasets', 'torch', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.run, benchmarks.peak, benchmarks.correctness\n"
        "import benchmarks.train_sections, benchmarks.train_ours\n"
        "try:\n"
        "    import benchmarks.end_to_end\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "grain" in ended.stdout


def test_what_does_not_fit_the_time_or_the_memory_is_left_out(contest, found):
    late, reported = contest(lambda: -1.0)
    late.in_turns([order(OURS)], at_once=1)
    large, also = contest(needed_bytes=lambda o: 2.0**31, free_bytes=lambda: 2.0**30)
    large.in_turns([order(PEER)], at_once=1)
    assert not reported
    assert not also
    assert found()[1] == [
        f"{OURS.name}: time, it was not warm after 0 s",
        f"{PEER.name}: memory, about 2.0 GiB where 1.0 are free",
    ]


class FakeWorker:
    """Stands for a process; `plan` names who fails in which turn."""

    def __init__(self, order, log):
        self.order, self.candidate, self.turns = order, order.candidate, 0
        self.closed = False

    def ready(self, seconds):
        return {"facts": {}, "step": 0.1}

    def steps(self, count, seconds):
        self.turns += 1
        if self.turns == self.candidate.options.get("fails_in"):
            raise train_turns.WorkerError("out of luck")
        if self.turns == self.candidate.options.get("interrupted_in"):
            raise KeyboardInterrupt
        return {"seconds": 0.1 * count, "host_seconds": 0.0, "peak_bytes": 1.0}

    def close(self):
        self.closed = True


@pytest.fixture
def fake_workers(monkeypatch):
    made = []

    def make(*args):
        made.append(FakeWorker(*args))
        return made[-1]

    monkeypatch.setattr(train_turns, "Worker", make)
    return made


def test_who_fails_has_no_more_turns(contest, found, fake_workers):
    made, reported = contest()
    bad = dataclasses.replace(PEER, options={"fails_in": 2})
    made.in_turns([order(OURS), order(bad)], at_once=2)
    assert [len(one.turns) for one in reported] == [5, 1]
    assert reported[0].rates(2.0) == pytest.approx((20.0,) * 5)
    assert found()[1] == [f"the rest of {bad.name}: out of luck"]
    assert all(worker.closed for worker in fake_workers)


def test_an_interrupted_contest_reports_its_rounds(contest, fake_workers):
    made, reported = contest()
    last = dataclasses.replace(PEER, options={"interrupted_in": 3})
    with pytest.raises(KeyboardInterrupt):
        made.in_turns([order(OURS), order(last)], at_once=2)
    assert [len(one.turns) for one in reported] == [3, 2]
    assert all(worker.closed for worker in fake_workers)


def test_on_a_device_one_is_measured_after_the_other(contest, fake_workers):
    alive = []
    made, reported = contest()
    report = made.report
    made = dataclasses.replace(
        made,
        report=lambda one: (
            alive.append([w.closed for w in fake_workers]),
            report(one),
        ),
    )
    made.one_by_one([order(OURS), order(PEER)])
    assert alive == [[False], [True, False]]
    assert [one.candidate for one in reported] == [OURS, PEER]


# GPU plans, as far as a CPU can try them

GPU_OPTIONS = {
    (candidate.dtype, *sorted(candidate.options.items())): candidate
    for plan in PLANS["gpu"]
    for candidate in plan.candidates
    if candidate.ours
}


@pytest.mark.parametrize("candidate", GPU_OPTIONS.values(), ids=lambda c: c.name)
def test_every_way_of_ours_lowers_for_cuda(candidate, monkeypatch):
    import jax

    from benchmarks.train_ours import program_of
    from bert_jax.train import sharding

    placement = sharding.Placement
    monkeypatch.setattr(
        sharding, "Placement", lambda *args: placement(*args)._replace(platform="gpu")
    )
    if importlib.util.find_spec("jax._src.pallas.triton.gpu_info"):
        # JAX 0.11 asks which GPU it is; 0.10 takes one like an H100 where there is none.
        from jax._src.pallas.triton import gpu_info

        h100 = gpu_info.get_gpu_info_from_version(gpu_info.GpuVersion.H100)
        monkeypatch.setattr(gpu_info, "get_gpu_info", lambda: h100)
    # Two layers; heads of 64, as in base and large.
    task = Task(size="tiny", length=128, packed=True, vocab_size=500)
    asked = Order(
        task=task, candidate=dataclasses.replace(candidate, rows=2), platform="gpu"
    )
    program = program_of(asked, jax.devices())
    traced = program.step.trace(program.state, program.batch)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert ("triton" in text) == (candidate.options["attention"] == "triton")


def test_promises_are_for_the_named_chips():
    (large, *_) = PLANS["gpu"]
    assert large.promised("NVIDIA H200", "bfloat16") == 1_000.0
    assert large.promised("NVIDIA H100 80GB HBM3", "fp8") == 1_300.0
    assert large.promised("NVIDIA H200", "float32") is None
    assert large.promised("NVIDIA A100-SXM4-80GB", "bfloat16") is None
