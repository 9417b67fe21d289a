"""Sections that the test of the runner gives to `benchmarks.sections`."""

import os
import signal
import subprocess
import sys
import time

from benchmarks.measure import Findings
from benchmarks.sections import Settings


def succeed(settings: Settings, findings: Findings, factor: int) -> None:
    findings.figure("workers", "times", settings.num_workers * factor)
    findings.figure("cores", "", len(os.sched_getaffinity(0)))


def fail(settings: Settings, findings: Findings) -> None:
    findings.figure("before", "s", 1.0)
    raise ValueError("no more")


def die(settings: Settings, findings: Findings) -> None:
    findings.figure("before", "s", 1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def hang(settings: Settings, findings: Findings) -> None:
    """Keeps a process of its own, whose number it tells as a figure."""
    wait = "import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", wait])
    findings.figure("process", "", child.pid)
    time.sleep(600)
