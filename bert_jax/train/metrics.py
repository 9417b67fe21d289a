"""What a run records: metrics.jsonl, TensorBoard events and lines on the terminal."""

import json
import math
import pathlib
import time
from typing import Any

import jax
from tensorboardX import SummaryWriter

from bert_jax.train.losses import Mean


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; what is on disk is from before."""


class MetricsLog:
    """Appends to metrics.jsonl and TensorBoard; drops what a resumed run repeats."""

    def __init__(self, run: pathlib.Path, first_step: int) -> None:
        path = run / "metrics.jsonl"
        lines = _whole_lines(path)
        kept = [line for line in lines if line["step"] <= first_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.elapsed_before = max((x.get("elapsed_secs", 0.0) for x in kept), default=0)
        self._file = path.open("a", buffering=1)
        self._events = SummaryWriter(
            str(run / "tensorboard"),
            purge_step=first_step + 1 if lines else None,
            flush_secs=10,
        )

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    return _whole_lines(run / "metrics.jsonl")


def _whole_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """All lines but a last one that a kill cut short."""
    if not path.exists():
        return []
    return [json.loads(x) for x in path.read_text().splitlines(True) if x[-1] == "\n"]


class Window:
    """Sums the metrics of some steps; the newest step is left to run meanwhile."""

    def __init__(self) -> None:
        self._pending: list[dict[str, Mean]] = []
        self._started = time.perf_counter()

    def add(self, metrics: dict[str, Mean]) -> None:
        self._pending.append(metrics)

    def __len__(self) -> int:
        return len(self._pending)

    def close(self, step: int) -> tuple[dict[str, float], float, int]:
        """Means over the window, seconds since the last close, number of steps.

        Raises:
            NotFiniteError: a mean is NaN or infinite.
        """
        means = means_of(self._pending)
        for name, value in means.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"{name} is {value} within the {len(self)} steps before step "
                    f"{step}. Nothing was saved since; lower the learning rate or "
                    "lengthen the warm-up, then start again from the last checkpoint."
                )
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        count = len(self)
        self._pending = []
        return means, seconds, count

    def leave_out(self, seconds: float) -> None:
        """Takes seconds that were no training from this window's."""
        self._started += seconds

    def restart_clock(self) -> None:
        """Leaves out of the next window's seconds what was not training."""
        self._started = time.perf_counter()


def means_of(batches: list[dict[str, Mean]]) -> dict[str, float]:
    """Ratio of the sums over all batches, for each metric."""
    fetched: list[dict[str, Mean]] = jax.device_get(batches)
    means = {}
    for name in fetched[0] if fetched else ():
        total = sum(float(x[name].sum) for x in fetched)
        weight = sum(float(x[name].weight) for x in fetched)
        # Comparison with 0 is false for NaN, which must show.
        means[name] = total / weight if weight != 0 else 0.0
    return means


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
