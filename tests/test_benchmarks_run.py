"""`python -m benchmarks.run`: what it measures, its time, its end, its files."""

import importlib
import importlib.util
import os
import signal
import time

import pytest
from benchmark_sections import TESTS, run_settings, stopped
from processes import is_running

from benchmarks import (
    accelerator,
    end_to_end,
    machine,
    peak,
    run,
    run_sections,
)
from benchmarks.accelerator import Accelerator
from benchmarks.measure import Figure, Findings, read_findings
from benchmarks.run_command import bert_jax_lines
from benchmarks.run_sections import TimedSection, sections_of
from benchmarks.run_settings import PEAK, RunSettings
from benchmarks.sections import Outcome, Section, run_section
from benchmarks.train_plans import PLANS

H200 = Accelerator("gpu", "NVIDIA H200", 8, 140 << 30, "cuda 13000", "NVIDIA H200, 580")


@pytest.fixture
def settings(tmp_path) -> RunSettings:
    return run_settings(tmp_path)


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
    stopped(code, tmp_path, f"{machine.machine_slug()}-*.json")


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
