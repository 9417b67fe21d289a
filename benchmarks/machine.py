"""What this machine is, and the fastest matrix products that it was seen to do.

    python -m benchmarks.machine

Prints both. The other benchmarks state them beside their figures.
"""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.results import Report, Table
from benchmarks.turns import Candidate, ask

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
"""Where the programs write, if they are not told another folder."""
# Rows and columns of the products.
_SIZES = {"cpu": 2_048, "gpu": 8_192, "tpu": 8_192}
_REPETITIONS, _ENOUGH_SECS = 3, 1.0
_DEVICE_SECS, _PEAK_SECS = 120.0, 60.0
_PRODUCT_FLAGS = r"avx2|avx512f|avx512_bf16|avx512_fp16|avx512_vnni|amx_\w+"
_LIBRARIES = (
    *("bert_jax", "jax", "numpy", "grain", "tensorflow-datasets", "array_record"),
    *("sentencepiece", "tokenizers", "nanotoken", "tokie", "gigatoken", "sentencex"),
    *("datasets", "transformers", "torch"),  # the peers
)


def find_device() -> dict[str, Any]:
    """What JAX runs on: platform, kind and count.

    For a process of its own, because a process that has started JAX holds the device, and
    on a GPU its memory.
    """
    import jax

    first, *others = jax.devices()
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": 1 + len(others),
    }


def describe_machine() -> dict[str, Any]:
    """Everything that figures depend on, as JSON can hold it.

    From then on, the processes that are started from here use that platform only.

    Returns:
        Names, sizes, versions, commit and day; `None` for what a system does not tell.

    Raises:
        RuntimeError: JAX finds no device, or does not start.
    """
    asked = Candidate(name="JAX", runner="benchmarks.machine:find_device")
    table = Table("")
    found = ask([asked], table, _DEVICE_SECS)
    if not found:
        raise RuntimeError(f"no device was found: {table.left_out[0]}")
    (device,) = found
    platforms = {"gpu": "cuda,cpu"}.get(device["platform"], device["platform"])
    os.environ["JAX_PLATFORMS"] = platforms
    if device["platform"] == "gpu":
        query = "--query-gpu=name,memory.total,driver_version,power.limit"
        device["driver"] = _said("nvidia-smi", query, "--format=csv,noheader")
    cpu = _cpuinfo("model name") or platform.processor() or platform.machine()
    flags = (_cpuinfo("flags") or "").split()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": short_name(device, cpu, num_cores()),
        "accelerator": device,
        "cpu": cpu,
        "cpu_flags": [flag for flag in flags if re.fullmatch(_PRODUCT_FLAGS, flag)],
        "cores": num_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "commit": _said("git", "describe", "--always", "--dirty=+", "--abbrev=40"),
        "date": datetime.date.today().isoformat(),
    }


def in_sentences(machine: dict[str, Any]) -> str:
    """What `describe_machine` found, for a reader."""
    sentences = []
    device = machine["accelerator"]
    if device["platform"] != "cpu":
        driver = f"; driver: {device['driver']}" if device.get("driver") else ""
        sentences.append(f"{device['count']} x {device['kind']}{driver}.")
    flags = f" ({', '.join(machine['cpu_flags'])})" if machine["cpu_flags"] else ""
    versions = [f"{name} {x}" for name, x in machine["versions"].items() if x]
    sentences += [
        f"{machine['cores']} cores of {machine['cpu']}{flags}, {machine['memory_gib']} "
        f"GiB, {machine['system']}, commit {machine['commit'] or 'unknown'}.",
        f"Python {machine['python']}, {', '.join(versions)}.",
    ]
    if machine["load_before"] > 0.5:
        sentences.append(
            f"**Other work was running**: the load was {machine['load_before']:.1f} "
            "before the start, so the figures are lower than those of a quiet machine."
        )
    return "\n\n".join(sentences)


def short_name(device: dict[str, Any], cpu: str, cores: int) -> str:
    """A name for files, such as `amd-epyc-2core` or `nvidia-h200`."""
    if device["platform"] != "cpu":
        return "-".join(re.findall(r"[a-z0-9]+", device["kind"].lower()))
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*|\d+-core", " ", cpu.lower())
    return "-".join([*re.findall(r"[a-z0-9]+", words), f"{cores}core"])


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def start_report(
    name: str, settings: dict[str, Any], output: pathlib.Path
) -> Iterator[Report]:
    """A report on this machine, which is written before each new table and at the end.

    Ctrl-C and SIGTERM end the block; so does an error of the user's, which is printed.
    The tables that there are until then are written all the same.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        machine = describe_machine()
    except RuntimeError as error:
        raise SystemExit(f"error: {error}") from None
    report = Report(name, machine, in_sentences(machine), settings, output)
    print(*report.remarks, flush=True)
    try:
        yield report
    except KeyboardInterrupt:
        report.stop(130, "**Interrupted**: these are the figures until then.")
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        report.stop(1, f"**Not complete**: {error}")
    if report.tables:
        print("written:", *report.write())


def peaks_of(library: str, platform: str) -> dict[str, float]:
    """The best rates of a large matrix product in FLOP/s, by type.

    The library is "JAX" or "PyTorch"; float32 products are true ones, not TF32.
    """
    product = {"JAX": _jax_products, "PyTorch": _torch_products}[library]
    # In a row, so that a device never waits for the host.
    count, size = 1 if platform == "cpu" else 20, _SIZES[platform]
    peaks = {}
    for dtype in ("float32", "bfloat16"):
        run = product(dtype, size, platform)
        run(1)
        seconds: list[float] = []
        while len(seconds) < _REPETITIONS and sum(seconds) < _ENOUGH_SECS:
            started = time.perf_counter()
            run(count)
            seconds.append(time.perf_counter() - started)
        peaks[dtype] = 2.0 * count * size**3 / min(seconds)
    return peaks


def measure_peaks(platform: str, table: Table) -> dict[str, float]:
    """Adds the peaks of the libraries and types to a table.

    On a GPU both libraries call the same one, so JAX's is enough.

    Returns:
        FLOP/s of the faster library, by type; empty if none could be measured.
    """
    best: dict[str, float] = {}
    for library in ("JAX", "PyTorch") if platform == "cpu" else ("JAX",):
        candidate = Candidate(
            name=library,
            runner="benchmarks.machine:peaks_of",
            arguments={"library": library, "platform": platform},
        )
        for found in ask([candidate], table, _PEAK_SECS):
            for dtype, flops in found.items():
                table.add(library, f"peak, {dtype}", "GFLOP/s", flops / 1e9)
                best[dtype] = max(flops, best.get(dtype, 0.0))
    table.end()
    return best


def _jax_products(dtype: str, size: int, platform: str) -> Callable[[int], None]:
    import jax

    # By default a GPU multiplies float32 as TF32.
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype) / size**0.5
    multiply = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=precision))

    def run(count: int) -> None:
        result = matrix
        for _ in range(count):
            result = multiply(result, matrix)
        jax.block_until_ready(result)

    return run


def _torch_products(dtype: str, size: int, platform: str) -> Callable[[int], None]:
    import torch

    from benchmarks.step_torch import device_of, wait_for

    device = device_of(platform)
    torch.backends.cuda.matmul.allow_tf32 = False
    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    matrix = matrix / size**0.5

    def run(count: int) -> None:
        result = matrix
        for _ in range(count):
            result = result @ matrix
        wait_for(device)

    return run


def _cpuinfo(name: str) -> str | None:
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return None
    found = re.search(rf"^{name}\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
    return found[1].strip() if found else None


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(*command: str) -> str | None:
    """What a command prints, in one line; `None` where it fails."""
    here = pathlib.Path(__file__).parent
    try:
        said = subprocess.check_output(
            command, cwd=here, text=True, timeout=30, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(said.strip().splitlines())


def main() -> int:
    machine = describe_machine()
    print(in_sentences(machine), flush=True)
    table = Table("Peak of a large matrix product")
    measure_peaks(machine["accelerator"]["platform"], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
