"""Sections that tests give to `benchmarks.sections`, and a run of them that is stopped."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from processes import is_running

from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings
from benchmarks.run_settings import RunSettings

TESTS = pathlib.Path(__file__).parent


def succeed(settings: DataSettings, findings: Findings, factor: int) -> None:
    findings.figure("workers", "times", settings.num_workers * factor)
    findings.figure("cores", "", len(os.sched_getaffinity(0)))


def fail(settings: DataSettings, findings: Findings) -> None:
    findings.figure("before", "s", 1.0)
    raise ValueError("no more")


def die(settings: DataSettings, findings: Findings) -> None:
    findings.figure("before", "s", 1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def hang(settings: DataSettings, findings: Findings) -> None:
    """Keeps a process of its own, whose number it tells as a figure."""
    wait = "import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", wait])
    findings.figure("process", "", child.pid)
    time.sleep(600)


def run_settings(workdir: pathlib.Path) -> RunSettings:
    """Of a run on this CPU that ends in two minutes."""
    return RunSettings(
        workdir=workdir,
        platform="cpu",
        device_kind="cpu",
        memory_bytes=2.0**34,
        ends_at=time.time() + 120.0,
    )


def stopped(code: str, folder: pathlib.Path, results: str) -> dict[str, Any]:
    """What a command wrote that was stopped by SIGTERM in its section "slow", a `hang`.

    Asserts that it ended for that reason, did not begin the section "Never", and left
    neither a process nor a file behind but its results.

    Args:
        code: takes `--output` as the command does.
        results: pattern of the one JSON file.
    """
    output, temporary = folder / "results", folder / "temporary"
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
    (path,) = output.glob(results)
    written = json.loads(path.read_text())
    assert "Interrupted" in written["remarks"][0]
    (section,) = written["sections"]
    (figure,) = section["figures"]
    deadline = time.monotonic() + 10.0
    while is_running(int(figure["median"])):
        assert time.monotonic() < deadline
    assert not list(temporary.iterdir())
    return written
