"""What figures were measured on: the machine, the versions, the commit, the day."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

_LIBRARIES = (
    "bert_jax",
    "jax",
    "libtpu",
    "numpy",
    "grain",
    "tensorflow-datasets",
    "array_record",
    "sentencepiece",
    "tokenizers",
    "sentencex",
    # The peers.
    "datasets",
    "transformers",
    "torch",
)


def describe_machine() -> dict[str, Any]:
    """All of it, as JSON can hold it; what a system does not tell is `None`."""
    return {
        "machine": machine_slug(),
        "cpu": cpu_model(),
        "cores": num_cores(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def machine_slug() -> str:
    """Such as `amd-epyc-2core`: what tells result files of different machines apart."""
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*|\d+-core", " ", cpu_model().lower())
    return "-".join([*re.findall(r"[a-z0-9]+", words), f"{num_cores()}core"])


def cpu_model() -> str:
    """As the system names it, or else the architecture."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return None
    return round(pages * size / 2**30, 1)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the clone that this file is in; `+` when it holds changes."""

    def git(*command: str) -> str:
        return subprocess.run(
            ("git", *command),
            cwd=pathlib.Path(__file__).parent,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
