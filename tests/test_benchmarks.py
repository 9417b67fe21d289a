"""The frame of the benchmarks: turns, findings, result files, sections, interruption."""

import importlib
import json

import numpy as np
import pytest
from benchmark_sections import TESTS, stopped

from benchmarks import data, machine, results
from benchmarks.data_settings import DataSettings
from benchmarks.measure import (
    Figure,
    interleaved,
    report_ratios,
)
from benchmarks.sections import Outcome, Section, run_section


@pytest.fixture
def settings(tmp_path) -> DataSettings:
    return DataSettings(
        workdir=tmp_path,
        source="files:nothing",
        vocab=tmp_path / "vocab.txt",
        num_workers=2,
    )


# Timing and keeping


def test_candidates_take_turns_and_a_failing_one_stops_nobody(findings, found):
    turns = []

    def candidate(name, seconds=None):
        def run(number):
            turns.append((name, number))
            if name == "bad" and number == 1:
                raise RuntimeError("out of luck")
            return {"bytes": 10.0, **({"seconds": seconds} if seconds else {})}

        return run

    timings = interleaved(
        {
            "slow": candidate("slow", 5.0),
            "bad": candidate("bad"),
            "ok": candidate("ok", 2.0),
        },
        3,
        findings,
    )
    assert turns == [
        *(("slow", 0), ("bad", 0), ("ok", 0)),
        *(("slow", 1), ("bad", 1), ("ok", 1)),
        *(("slow", 2), ("ok", 2)),
    ]
    assert timings.keys() == {"slow", "ok"}
    assert timings["slow"].rates("bytes", 2.0) == (1.0, 1.0, 1.0)
    report_ratios(timings, "ok", "bytes", findings, {"slow": 3.0})
    figures, left_out = found()
    assert left_out == ["bad: RuntimeError: out of luck"]
    (ratio,) = figures
    assert (ratio.what, ratio.values, ratio.met) == ("ok / slow", (2.5,) * 3, False)


def test_the_median_is_held_against_the_promise():
    figure = Figure(
        what="x", unit="s", values=(9.0, 1.0, 2.0), at_least=2.0, at_most=3.0
    )
    assert figure.median == 2.0
    assert figure.met is True
    assert Figure(what="x", unit="s", values=(1.0,), at_least=2.0).met is False
    assert Figure(what="x", unit="s", values=(4.0,), at_most=3.0).met is False
    assert Figure(what="x", unit="s", values=(4.0,)).met is None


def test_a_line_that_was_cut_off_is_no_finding(findings, found, tmp_path):
    findings.figure("speed", "MB/s", 1.0, 2.0, at_least=1.0)
    findings.left_out("the rest", "no time")
    path = tmp_path / "findings.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:-20])
    figures, left_out = found()
    assert [f.values for f in figures] == [(1.0, 2.0), (1.0, 2.0)]
    assert left_out == ["the rest: no time"]


def test_a_machine_has_a_short_name(monkeypatch):
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    for model, slug in {
        "AMD EPYC 7B13 64-Core Processor": "amd-epyc-7b13-8core",
        "Intel(R) Xeon(R) CPU @ 2.20GHz": "intel-xeon-8core",
    }.items():
        monkeypatch.setattr(machine, "cpu_model", lambda model=model: model)
        assert machine.machine_slug() == slug


def test_result_files_keep_every_repetition_and_say_what_is_missing(tmp_path):
    section = Section("tokenize", "Tokenising", "nowhere:nothing")
    figures = [
        Figure(what="ours", unit="MB/s", values=(3.0, 1.0, 2.0), at_least=2.5),
        Figure(what="kept", unit="", values=(1234.0,), note="as it was"),
    ]
    about = machine.describe_machine() | {"load_before": 3.0, "machine": "toy-2core"}
    paths = results.write_results(
        tmp_path,
        "data",
        about,
        {"quick": True},
        [Outcome(section, figures, ["torch: not installed"], 4.5)],
        remarks=["**Stopped** early."],
    )
    assert [path.name for path in paths] == [
        f"data-toy-2core-{about['date']}.json",
        f"data-toy-2core-{about['date']}.md",
    ]
    written = json.loads(paths[0].read_text())
    assert written["remarks"] == ["**Stopped** early."]
    assert written["machine"]["versions"]["numpy"] == np.__version__
    (kept,) = written["sections"]
    assert kept["figures"][0]["values"] == [3.0, 1.0, 2.0]
    assert (kept["figures"][0]["median"], kept["figures"][0]["met"]) == (2.0, False)
    table = paths[1].read_text()
    assert "| ours | 2 MB/s (1–3) | ≥ 2.5: **missed** |  |" in table
    assert "| kept | 1,234 |  | as it was |" in table
    assert "**left out** torch: not installed" in table
    assert "**Stopped** early." in table
    assert "**Other work was running**: load 3.0" in table


# Sections in processes of their own


@pytest.mark.parametrize(
    ("function", "figures", "left_out"),
    [
        ("succeed", ["workers", "cores"], []),
        ("fail", ["before"], ["the rest of this section: ValueError: no more"]),
        ("die", ["before"], ["the rest of this section: it ended with exit code -9"]),
    ],
)
def test_a_section_runs_apart(function, figures, left_out, settings, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    arguments = (3,) if function == "succeed" else ()
    section = Section("one", "", f"benchmark_sections:{function}", arguments, True)
    found, missing = run_section(section, settings)
    assert [figure.what for figure in found] == figures
    assert missing == left_out
    if function == "succeed":
        assert [figure.median for figure in found] == [6, 1]


def test_a_stopped_run_keeps_what_it_has_and_leaves_no_process(tmp_path):
    code = (
        "import sys, benchmarks.data as data\n"
        "from benchmarks.sections import Section\n"
        "data.SECTIONS = (Section('slow', 'Slow', 'benchmark_sections:hang'),\n"
        "                 Section('never', 'Never', 'benchmark_sections:fail'))\n"
        "sys.exit(data.main())\n"
    )
    stopped(code, tmp_path, "data-*.json")


def test_an_unknown_section_is_named(tmp_path):
    options = data.Options(only=("pears",))
    with pytest.raises(ValueError, match=r"pears.*no such section.*tokenize"):
        data.run(options, options.settings(tmp_path))


def test_every_section_exists():
    for section in data.SECTIONS:
        module, _, function = section.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
