"""`python -m benchmarks.run`: what it measures, its time, its end, its files."""

import dataclasses
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_benchmarks import TESTS, is_running

from benchmarks import (
    accelerator,
    end_to_end,
    machine,
    peak,
    run,
    run_sections,
    tpu_compiled,
    train_sections,
    train_turns,
)
from benchmarks.accelerator import Accelerator
from benchmarks.measure import Figure, Findings, read_findings
from benchmarks.run_command import bert_jax_lines
from benchmarks.run_sections import TimedSection, sections_of
from benchmarks.run_settings import PEAK, RunSettings
from benchmarks.sections import Outcome, Section, run_section
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
H200 = Accelerator("gpu", "NVIDIA H200", 8, 140 << 30, "cuda 13000", "NVIDIA H200, 580")


@pytest.fixture
def settings(tmp_path) -> RunSettings:
    return RunSettings(
        workdir=tmp_path,
        platform="cpu",
        device_kind="cpu",
        memory_bytes=2.0**34,
        ends_at=time.time() + 120.0,
    )


@pytest.fixture
def findings(tmp_path):
    with Findings(tmp_path / "findings.jsonl") as made:
        yield made


@pytest.fixture
def found(tmp_path):
    """found() -> (figures, left out)."""
    return lambda: read_findings(tmp_path / "findings.jsonl")


@pytest.fixture
def workers_on_cpu(monkeypatch):
    """Of this test's processes: one device, and no TPU is looked for."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


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
        sequences_per_sec={"cpu": 1e9},
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
        "import benchmarks.train_sections, benchmarks.train_ours, benchmarks.tpu_compiled\n"
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


# Time, order and end of a run


def timed(name: str, function: str, weight: float = 1.0, least_secs: float = 0.0):
    section = Section(name, name.title(), f"benchmark_sections:{function}")
    return TimedSection(section, weight, least_secs)


def test_a_section_ends_with_its_time(settings, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    section = Section("slow", "Slow", "benchmark_sections:hang")
    (figure,), left_out = run_section(section, settings, seconds=2.5)
    assert left_out == ["the rest of this section: time, it was given 2 s"]
    deadline = time.monotonic() + 10.0
    while is_running(int(figure.median)):
        assert time.monotonic() < deadline


def test_the_time_is_shared_by_weight(settings, monkeypatch):
    given = []

    def no_section(section, mine, *, seconds):
        given.append((section.name, seconds, mine.ends_at))
        return [], []

    monkeypatch.setattr(run, "run_section", no_section)
    sections = [
        timed("first", "fail", 3.0),
        timed("long", "fail", 1.0, least_secs=51.0),
        timed("last", "fail", 1.0),
    ]
    now = time.time()
    outcomes, complete = run.run(sections, settings, now + 100.0)
    assert complete
    # The first uses none of its 60 s, so the last has all that the second is too long for.
    assert [name for name, *_ in given] == ["first", "last"]
    assert [seconds for _, seconds, _ in given] == pytest.approx([60.0, 100.0], abs=1.0)
    assert given[0][2] == pytest.approx(now + 60.0 - run._KILL_SECS, abs=1.0)
    assert outcomes[1].left_out == ["all of it: time, 50 s were left for it"]


def test_a_stopped_run_keeps_what_it_has(tmp_path):
    code = (
        "import sys, benchmarks.run as run\n"
        "from benchmarks.accelerator import Accelerator\n"
        "from test_benchmarks_run import timed\n"
        "run.find_accelerator = lambda: Accelerator('cpu', 'cpu', 1, None, '', None)\n"
        "run.sections_of = lambda platform: [\n"
        "    timed('slow', 'hang')._replace(quick=True), timed('never', 'fail')]\n"
        "sys.exit(run.main())\n"
    )
    output, temporary = tmp_path / "results", tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, "--output", str(output)],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(TESTS), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while not (begun := list(temporary.glob("*/findings/slow.jsonl"))) or not (
            begun[0].read_text().endswith("\n")
        ):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Never" not in said
    (path,) = output.glob(f"{machine.machine_slug()}-*.json")
    written = json.loads(path.read_text())
    assert "Interrupted" in written["remarks"][0]
    (section,) = written["sections"]
    deadline = time.monotonic() + 10.0
    while is_running(int(section["figures"][0]["median"])):
        assert time.monotonic() < deadline
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("value", "code"), [(0.0, 0), (2.0, 1)])
def test_a_wrong_result_is_said_loudly(value, code, tmp_path, monkeypatch, capsys):
    figure = Figure(what="logits", unit="", values=(value,), at_most=1.0)
    section = Section(run_sections.CORRECTNESS, "Correctness", "nowhere:nothing")
    outcome = Outcome(section, [figure], [], 1.0)
    monkeypatch.setattr(run, "run", lambda *args: ([outcome], True))
    monkeypatch.setattr(run, "find_accelerator", lambda: H200)
    monkeypatch.setattr("sys.argv", ["run", "--output", str(tmp_path)])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run.main() == code
    finally:
        signal.signal(signal.SIGTERM, before)
    (path,) = tmp_path.glob("nvidia-h200-*.md")
    text = path.read_text()
    assert ("**Not correct on this machine**" in text) == bool(code)
    assert ("Not correct" in capsys.readouterr().err) == bool(code)
    assert "| Correctness | logits |" in text  # among what is promised
    assert "one of 8 x NVIDIA H200: NVIDIA H200, 580; cuda 13000." in text


def test_a_part_of_a_run_has_a_name_of_its_own():
    def stem(**options):
        return run.stem_of("m", "d", run.Options(**options))

    assert stem() == "m-d"
    assert stem(quick=True) == "quick-m-d"
    assert stem(only=("peak", "mini-128")) == "m-d-peak-mini-128"


def test_a_section_of_another_platform_is_named():
    with pytest.raises(ValueError, match="mini-128: no such section on a gpu; there"):
        run.choose("gpu", run.Options(only=("mini-128",)))


@pytest.mark.parametrize("platform", PLANS)
def test_every_section_exists_and_correctness_is_first(platform):
    sections = sections_of(platform)
    names = [section.name for section in sections]
    assert names[:2] == [run_sections.CORRECTNESS, PEAK]
    assert len(set(names)) == len(names)
    for section in sections:
        module, _, function = section.section.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    for plan in PLANS[platform]:
        shown = [candidate.name for candidate in plan.candidates]
        assert len(set(shown)) == len(shown)


# The machine


def test_the_device_is_asked_for_in_another_process(workers_on_cpu):
    found = accelerator.find_accelerator()
    assert (found.platform, found.driver) == ("cpu", None)


def test_no_device_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(accelerator.DetectionError, match=r"found no device.*abacus"):
        accelerator.find_accelerator()


def test_an_accelerator_gives_the_machine_its_name():
    assert machine.machine_slug(H200) == "nvidia-h200"
    about = machine.describe_machine(H200)
    assert about["accelerator"]["num_devices"] == 8
    assert set(about["cpu_flags"]) <= set((machine._cpuinfo("flags") or "").split())


def test_peaks_are_by_type_and_library(settings, monkeypatch, transformers):
    monkeypatch.setitem(peak._SIZES, "cpu", (64,))
    path = settings.findings(PEAK)
    path.parent.mkdir()
    with Findings(path) as findings:
        peak.measure_peak(settings, findings)
    figures, left_out = read_findings(path)
    assert not left_out
    rates = {f.of: f.median for f in figures}
    assert len(rates) == 4
    for dtype in ("float32", "bfloat16"):
        best = max(rates[f"{library}, {dtype}"] for library in ("JAX", "PyTorch"))
        assert settings.peak_flops(dtype) == pytest.approx(1e9 * best)


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
    assert large.promised("NVIDIA H200") == 1_000.0
    assert large.promised("NVIDIA A100-SXM4-80GB") is None


# Parts of the other sections


def test_lines_of_a_command_end_with_it_or_with_the_time(workers_on_cpu):
    with bert_jax_lines(["--help"], lambda: 30.0) as lines:
        assert any("pretrain" in line for line in lines)
    with bert_jax_lines(["--help"], lambda: 0.0) as lines:
        assert list(lines) == []


def test_the_run_has_the_config_whose_step_is_timed(tmp_path):
    from bert_jax.commands.config_files import load_config
    from bert_jax.config import DataConfig, PretrainConfig
    from bert_jax.config_json import to_json

    cfg = PretrainConfig(data=DataConfig(dataset=tmp_path), batch_size=3)
    path = tmp_path / "config.py"
    path.write_text(end_to_end._CONFIG_FILE.format(json=to_json(cfg)))
    assert load_config(str(path), PretrainConfig) == cfg


def test_gathers_and_memory_of_a_tpu_are_held_against_promises(
    settings, findings, found, monkeypatch
):
    def compiled(cfg, topology):
        naive = cfg.model.attention == "xla"
        return {
            "compile_secs": 30.0,
            "collectives": [
                {"kind": "all-reduce", "count": 3},
                {"kind": "all-gather", "count": 2},
            ],
            "memory": {"temporaries": (6 if naive else 2) << 30},
        }

    monkeypatch.setattr(tpu_compiled, "compile_apart", compiled)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    tpu_compiled.compile_for_tpu(settings, findings)
    figures = {f.what.partition(",")[0]: f for f in found()[0] if f.met is not None}
    assert figures["compile time"].met is True
    assert figures["all-gathers in a step"].met is False
    assert figures["temporaries"].values == pytest.approx((3.0,))
