"""Sections that the test of the runner gives to `benchmarks.sections`."""

import os
import signal
import subprocess
import sys
import time

from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings


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
