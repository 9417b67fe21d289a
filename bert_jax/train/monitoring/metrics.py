"""Records the metrics of a run, and sums them over the steps between two log lines."""

import json
import math
import pathlib
import resource
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TextIO

import jax

from bert_jax.config import LoopConfig
from bert_jax.data.atomic_file import write_atomically
from bert_jax.runtime.agreement import on_first_host
from bert_jax.runtime.explanations import naming
from bert_jax.train.flops import Work
from bert_jax.train.losses import Mean
from bert_jax.train.monitoring.sinks import Sink, TensorBoard, WeightsAndBiases

# What a step reports: undivided means by name, and the `Work` of its batch as "work".
StepMetrics = dict[str, Any]


WAY_OUT = (
    "To go on from the last checkpoint with a lower learning rate, start the same command "
    "with --resume-with optimizer.learning-rate=RATE."
)
_CHECKSUM = ', "crc32": "'


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite. The checkpoints on disk are from before."""


def require_finite(what: str, values: dict[str, float], step: int) -> None:
    """Raises NotFiniteError if a value is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} {what} {step:,}. Nothing was saved since it became "
                f"so. {WAY_OUT}"
            )


class MetricsLog:
    """Writes lines of metrics to metrics.jsonl, TensorBoard and, if asked for, W&B.

    The lines of steps that a resumed run repeats are dropped, and an evaluation of the
    step that it continues from, which the loop makes anew. Only the first host writes; the
    others do nothing.
    """

    def __init__(self, run: pathlib.Path, first_step: int, cfg: LoopConfig) -> None:
        """Opens the log of `run` and keeps its lines up to `first_step`.

        Raises, on all hosts:
            ValueError: Weights & Biases did not start.
        """
        self._sinks: list[Sink] = []
        self._file: TextIO | None = None
        # Seconds of training in earlier sessions.
        self.elapsed_before: float = on_first_host(
            f"opening the metrics of {run}", lambda: self._open(run, first_step, cfg)
        )

    def _open(self, run: pathlib.Path, first_step: int, cfg: LoopConfig) -> float:
        path = run / "metrics.jsonl"
        lines = read_metrics(run)
        if first_step and not lines:
            print(
                f"note: {path} has no line of the {first_step:,} steps so far: it was "
                "lost or damaged. The run goes on, and its curves begin here.",
                flush=True,
            )
        kept = [
            line
            for line in lines
            if line["step"] < first_step + (line["kind"] != "eval")
        ]
        if cfg.wandb_project is not None:
            self._sinks.append(WeightsAndBiases(run, cfg.wandb_project))
        write_atomically(path, "".join(map(_sealed, kept)))
        self._file = path.open("a", buffering=1)
        self._sinks.append(TensorBoard(run, first_step=first_step, kept=kept))
        return max((line.get("elapsed_secs", 0.0) for line in kept), default=0.0)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        with naming(pathlib.Path(self._file.name)):
            self._file.write(_sealed({"kind": kind, "step": step, **values}))
        numbers = {name: x for name, x in values.items() if isinstance(x, int | float)}
        for sink in self._sinks:
            sink.write(kind, step, numbers)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()


def _sealed(line: dict[str, Any]) -> str:
    """A line of the file: JSON, whose last entry is the checksum of the others."""
    text = json.dumps(line)
    return f'{text[:-1]}{_CHECKSUM}{zlib.crc32(text.encode()):08x}"}}\n'


def _unsealed(text: bytes) -> bytes:
    """A line as it was before its checksum was added; nothing if it was changed since."""
    head, mark, told = text.rpartition(_CHECKSUM.encode())
    line = head + b"}"
    return line if mark and told == b'%08x"}' % zlib.crc32(line) else b""


def read_metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl, except a last line that a kill cut short.

    Damaged lines are left out, which is said. A file in which no line has a checksum is
    taken as it is: other programs write such.
    """
    path, lines, damaged = run / "metrics.jsonl", [], []
    content = path.read_bytes() if path.exists() else b""
    has_checksums = _CHECKSUM.encode() in content
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        line = _parsed(_unsealed(text) if has_checksums else text)
        if line is None:
            damaged.append(number)
        else:
            lines.append(line)
    if damaged:
        some = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
        print(
            f"note: {path} is damaged: {len(damaged)} of its lines cannot be read and "
            f"are left out (line {some}).",
            file=sys.stderr,
        )
    return lines


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line of metrics; `None` if it is none."""
    try:
        line: dict[str, Any] = json.loads(text)
        is_line = (
            isinstance(line["kind"], str)
            and isinstance(line["step"], int)
            and isinstance(line.get("elapsed_secs", 0.0), int | float)
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return line if is_line else None


class Sums(NamedTuple):
    """The metrics of several steps together."""

    means: dict[str, float]
    work: Work | None
    """Work of the timed steps, over the global batches. None if no step was timed, or if
    steps do not count work."""
    seconds: float
    """Seconds of training since the last sums."""
    num_timed: int
    """Number of timed steps, which are all except those that were left out."""


class Window:
    """Collects the metrics of steps without waiting for them, and sums them in `close`."""

    def __init__(self) -> None:
        self._pending: list[StepMetrics] = []
        self._untimed: set[int] = set()
        self._started = time.perf_counter()

    def add(self, metrics: StepMetrics) -> None:
        self._pending.append(metrics)

    def leave_out_metrics(self, skipped: Callable[[StepMetrics], bool]) -> None:
        """Excludes the metrics of skipped updates from the means; their work counts.

        Args:
            skipped: called with the fetched metrics of each step, in their order.
        """
        self._pending = jax.device_get(self._pending)
        for number, metrics in enumerate(self._pending):
            if skipped(metrics):
                self._pending[number] = {
                    name: x for name, x in metrics.items() if name == "work"
                }

    def __len__(self) -> int:
        return len(self._pending)

    def close(self, step: int) -> Sums:
        """The sums since the last close. All hosts get the same.

        Raises:
            NotFiniteError: a mean is NaN or infinite.
        """
        fetched: list[StepMetrics] = jax.device_get(self._pending)
        works = [metrics.pop("work", None) for metrics in fetched]
        means = means_of(fetched)
        require_finite(f"within the {len(self)} steps before step", means, step)
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
        """Excludes the last added step, which took `seconds`, from the measured speed."""
        self._started += seconds
        self._untimed.add(len(self._pending) - 1)

    def restart_clock(self) -> None:
        """Starts the window's seconds anew, after work that was not training."""
        self._started = time.perf_counter()


def means_of(batches: Sequence[dict[str, Mean]]) -> dict[str, float]:
    """For each metric, the mean over all batches: the ratio of the summed sums."""
    means = {}
    # A skipped step has none.
    fetched = jax.device_get([metrics for metrics in batches if metrics])
    for name in fetched[0] if fetched else ():
        total = sum(float(x[name].sum) for x in fetched)
        weight = sum(float(x[name].weight) for x in fetched)
        # `!= 0` is true for NaN, so a NaN weight gives a NaN mean and stays visible.
        means[name] = total / weight if weight != 0 else 0.0
    return means


def peak_memory() -> dict[str, int]:
    """The most bytes that this process, and its fullest device, have used so far.

    Device memory is what XLA's allocator gave out. CPU devices do not report it.
    """
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    found = [x["peak_bytes_in_use"] for x in stats if "peak_bytes_in_use" in x]
    return {
        "peak_host_bytes": peak,
        **({"peak_device_bytes": max(found)} if found else {}),
    }


def duration(seconds: float) -> str:
    """Seconds as `1:02:03`, or as `2:03` below an hour."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
