"""What a run records: lines of metrics, and the sums over steps they are made of."""

import json
import math
import pathlib
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

import jax

from bert_jax.config import LoopConfig
from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.flops import Work
from bert_jax.train.losses import Mean
from bert_jax.train.run import write_text
from bert_jax.train.sinks import Sink, TensorBoard, WeightsAndBiases

# What a step reports: undivided means by name, and under "work" what its batch held.
StepMetrics = dict[str, Any]


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; what is on disk is from before."""


class MetricsLog:
    """Lines of metrics in metrics.jsonl, TensorBoard and, if asked for, W&B.

    It drops what a resumed run repeats. The first host writes; on the others a log is
    silent.
    """

    def __init__(self, run: pathlib.Path, first_step: int, cfg: LoopConfig) -> None:
        """Takes up the lines of `run` until `first_step`.

        Raises, on all hosts:
            ValueError: Weights & Biases did not start.
        """
        self._sinks: list[Sink] = []
        self._file: TextIO | None = None
        # Seconds of training in the sessions before.
        self.elapsed_before: float = on_first_host(
            f"opening the metrics of {run}", lambda: self._open(run, first_step, cfg)
        )

    def _open(self, run: pathlib.Path, first_step: int, cfg: LoopConfig) -> float:
        path = run / "metrics.jsonl"
        lines = _whole_lines(path)
        kept = [line for line in lines if line["step"] <= first_step]
        if cfg.wandb_project is not None:
            self._sinks.append(WeightsAndBiases(run, cfg.wandb_project))
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._sinks.append(TensorBoard(run, purge_after=first_step if lines else None))
        return max((line.get("elapsed_secs", 0.0) for line in kept), default=0.0)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for sink in self._sinks:
            sink.write(kind, step, values)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()


def read_metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    return _whole_lines(run / "metrics.jsonl")


def _whole_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """All lines but a last one that a kill cut short."""
    if not path.exists():
        return []
    return [json.loads(x) for x in path.read_text().splitlines(True) if x[-1] == "\n"]


class Sums(NamedTuple):
    """What some steps came to."""

    means: dict[str, float]
    work: Work | None
    """Of the timed steps, global batches whole; None where there are none, or they do
    not count it."""
    seconds: float
    """Of training since the last sums."""
    num_timed: int
    """Steps, but those whose time was left out."""


class Window:
    """Sums the metrics of some steps; the newest step is left to run meanwhile."""

    def __init__(self) -> None:
        self._pending: list[StepMetrics] = []
        self._untimed: set[int] = set()
        self._started = time.perf_counter()

    def add(self, metrics: StepMetrics) -> None:
        self._pending.append(metrics)

    def __len__(self) -> int:
        return len(self._pending)

    def close(self, step: int) -> Sums:
        """The sums since the last close; all hosts fetch the same.

        Raises:
            NotFiniteError: a mean is NaN or infinite.
        """
        fetched: list[StepMetrics] = jax.device_get(self._pending)
        works = [metrics.pop("work", None) for metrics in fetched]
        means = _ratios(fetched)
        for name, value in means.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"{name} is {value} within the {len(self)} steps before step "
                    f"{step}. Nothing was saved since; lower the learning rate or "
                    "lengthen the warm-up, then start again from the last checkpoint."
                )
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        timed = [work for n, work in enumerate(works) if n not in self._untimed]
        counted = [work for work in timed if work is not None]
        self._pending, self._untimed = [], set()
        total = None
        if counted:
            total = Work(*(sum(map(float, x)) for x in zip(*counted, strict=True)))
        return Sums(means, total, seconds, len(timed))

    def leave_out(self, seconds: float) -> None:
        """The step that was added last took so long, which is no measure of speed."""
        self._started += seconds
        self._untimed.add(len(self._pending) - 1)

    def restart_clock(self) -> None:
        """Leaves out of the next window's seconds what was not training."""
        self._started = time.perf_counter()


def means_of(batches: Sequence[dict[str, Mean]]) -> dict[str, float]:
    """Ratio of the sums over all batches, for each metric."""
    return _ratios(jax.device_get(list(batches)))


def _ratios(fetched: Sequence[dict[str, Mean]]) -> dict[str, float]:
    means = {}
    for name in fetched[0] if fetched else ():
        total = sum(float(x[name].sum) for x in fetched)
        weight = sum(float(x[name].weight) for x in fetched)
        # Comparison with 0 is false for NaN, which must show.
        means[name] = total / weight if weight != 0 else 0.0
    return means


def peak_memory() -> dict[str, int]:
    """Most bytes in use so far: of this process, and of its fullest device if it says.

    Device memory is what XLA's allocator gave out; CPU devices do not report it.
    """
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    found = [x["peak_bytes_in_use"] for x in stats if "peak_bytes_in_use" in x]
    return {
        "peak_host_bytes": peak,
        **({"peak_device_bytes": max(found)} if found else {}),
    }


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
