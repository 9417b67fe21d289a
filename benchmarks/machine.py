"""What figures were measured on: the machine, the versions, the commit, the day."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

from benchmarks.accelerator import Accelerator

_PRODUCT_FLAGS = r"avx2|avx512f|avx512_bf16|avx512_fp16|avx512_vnni|amx_\w+"
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


def describe_machine(accelerator: Accelerator | None = None) -> dict[str, Any]:
    """All of it, as JSON can hold it; what a system does not tell is `None`.

    Args:
        accelerator: what was measured, where that is no CPU: it gives the name.
    """
    return {
        "machine": machine_slug(accelerator),
        "accelerator": None if accelerator is None else accelerator.to_json(),
        "cpu": cpu_model(),
        # Some makers give several generations one name.
        "cpu_family": _cpuinfo("cpu family"),
        "cpu_model": _cpuinfo("model"),
        "cpu_flags": cpu_flags(),
        "cores": num_cores(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def machine_slug(accelerator: Accelerator | None = None) -> str:
    """Such as `amd-epyc-2core` or `nvidia-h200`: what tells result files apart."""
    if accelerator is not None and accelerator.platform != "cpu":
        # One of them is measured, however many there are.
        return "-".join(re.findall(r"[a-z0-9]+", accelerator.kind.lower()))
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*|\d+-core", " ", cpu_model().lower())
    return "-".join([*re.findall(r"[a-z0-9]+", words), f"{num_cores()}core"])


def cpu_model() -> str:
    """As the system names it, or else the architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Of the instructions that matrix products gain by, those that this CPU has."""
    flags = (_cpuinfo("flags") or "").split()
    return [flag for flag in flags if re.fullmatch(_PRODUCT_FLAGS, flag)]


def _cpuinfo(name: str) -> str | None:
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return None
    found = re.search(rf"^{name}\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
    return found[1].strip() if found else None


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
