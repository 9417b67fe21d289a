"""Speed of a training step on this machine, beside Hugging Face's BERT in PyTorch.

    python -m benchmarks.train [--minutes 9] [--only MODEL ...] [--output DIR]

Correctness is checked first. Then every way of training a model, ours and PyTorch's, gets
its turns in a process of its own, on the same synthetic rows. What does not fit the time is
named as not measured. Writes `train-MACHINE-DATE.md` and `.json`; Ctrl-C keeps the tables that are
complete. Runs on a CPU, an NVIDIA GPU (see `benchmarks.gpu` too) or a TPU.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from benchmarks.machine import measure_peaks, start_report
from benchmarks.results import Report, Table
from benchmarks.turns import (
    Candidate,
    Clock,
    Measured,
    fastest,
    measure,
    ratios,
)
from benchmarks.workload import Task, synthetic_batch, work_of
from bert_jax.train.flops import train_flops

_HERE = pathlib.Path(__file__).resolve().parent
_CORRECTNESS_SECS = 90.0
_ABOUT = (
    "Whole steps: forward and backward pass, clipping and AdamW, with dropout 0.1; ours "
    "also draws new masks in every step. Sequences and FLOPs are the useful ones: real "
    "tokens, and the masked-LM head on the masked positions. A ratio is taken turn by turn."
)


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of training: a library, a type and options."""

    library: str
    """"bert_jax" or "PyTorch"."""
    dtype: str
    """Of the products: float32, bfloat16, or fp8 (ours only)."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `ComputeConfig` for ours; `compile` and `mode` for PyTorch."""

    @property
    def name(self) -> str:
        said = [
            name if value is True else f"{name} {value}"
            for name, value in self.options.items()
        ]
        return ", ".join([self.library, self.dtype, *said])

    def candidate(self, task: Task, rows: int, platform: str) -> Candidate:
        """The process that trains `task` so."""
        ours = self.library == "bert_jax"
        module = "step_jax:JaxStep" if ours else "step_torch:TorchStep"
        return Candidate(
            name=self.name,
            runner=f"benchmarks.{module}",
            arguments={
                "task": dataclasses.asdict(task),
                "platform": platform,
                "dtype": self.dtype,
                "rows": rows,
                **self.options,
            },
            # The command `bert-jax` has them; PyTorch is a tenth slower with them.
            huge_pages=ours and platform == "cpu",
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """One model and the ways to train it, the most important first."""

    task: Task
    rows: int
    """Of a batch."""
    weight: float
    """Its share of the time, beside the other plans of the platform."""
    ways: tuple[Way, ...]

    @property
    def title(self) -> str:
        packed = ", packed" if self.task.packed else ""
        return f"BERT-{self.task.size}, {self.rows} rows of {self.task.length} tokens{packed}"


def _ours(dtype: str, **options: Any) -> Way:
    return Way("bert_jax", dtype, options)


def _torch(dtype: str, **options: Any) -> Way:
    return Way("PyTorch", dtype, options)


_CPU = (
    _ours("float32"),
    _torch("float32"),
    _ours("bfloat16"),
    _torch("bfloat16"),
    # These take as long to be warm as all others together.
    _torch("float32", compile=True),
    _torch("bfloat16", compile=True),
)
# Two neighbours at a time share the memory of a GPU. What compiles for long comes later.
_GPU = (
    _ours("bfloat16", attention="triton"),
    _torch("bfloat16"),
    _ours("bfloat16", attention="xla"),
    _torch("bfloat16", compile=True),
    _ours("fp8", attention="triton"),
    _ours("bfloat16", attention="triton", scan_layers=False),
    _ours("fp8", attention="triton", scan_layers=False),
    _torch("bfloat16", compile=True, mode="max-autotune-no-cudagraphs"),
    _ours("float32", attention="triton"),
    _torch("float32", compile=True),
)
# PyTorch has no build for TPUs.
_TPU = (_ours("bfloat16", attention="fused"), _ours("bfloat16", attention="xla"))

PLANS: dict[str, tuple[Plan, ...]] = {
    "cpu": (
        Plan(Task(size="mini", length=128), 32, 85.0, _CPU),
        Plan(Task(size="small", length=128), 16, 55.0, _CPU),
        Plan(Task(size="base", length=128), 8, 110.0, _CPU),
        Plan(Task(size="base", length=512), 2, 130.0, _CPU),
    ),
    "gpu": (
        Plan(Task(size="base", length=128), 256, 80.0, _GPU),
        Plan(Task(size="large", length=512, packed=True), 16, 150.0, _GPU),
        Plan(Task(size="large", length=128), 64, 110.0, _GPU),
    ),
    "tpu": (
        Plan(Task(size="base", length=128), 64, 80.0, _TPU),
        Plan(Task(size="large", length=512, packed=True), 8, 150.0, _TPU),
    ),
}
"""By JAX's name of the platform."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures training steps on this machine, beside PyTorch."""

    minutes: float = 9.0
    """Most that the whole run takes."""
    only: tuple[str, ...] = ()
    """Models to measure, such as mini-128; a wrong name lists those of this machine.
    Default: all of them."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the two result files."""


def choose(platform: str, only: Sequence[str]) -> list[Plan]:
    """The plans of these names, or all of them when none is named.

    Raises:
        ValueError: the platform has no plan of a name.
    """
    plans = {plan.task.name: plan for plan in PLANS[platform]}
    if unknown := sorted(set(only) - set(plans)):
        raise ValueError(
            f"--only {' '.join(unknown)}: no such model on a {platform}; there are "
            f"{', '.join(plans)}."
        )
    return [plan for name, plan in plans.items() if not only or name in only]


def measure_models(
    plans: Sequence[Plan],
    platform: str,
    peaks: Mapping[str, float],
    report: Report,
    clock: Clock,
) -> None:
    """Adds a table for each plan; a plan may take its share of the time that is left.

    Args:
        plans: the most important first.
        platform: as JAX names it.
        peaks: FLOP/s of large products, by type.
        report: is given the tables.
        clock: of all of this.
    """
    for number, plan in enumerate(plans):
        weights = [coming.weight for coming in plans[number:]]
        part = clock.part(weights[0] / sum(weights))
        table = report.table(plan.title, _ABOUT)
        candidates = [
            way.candidate(plan.task, plan.rows, platform) for way in plan.ways
        ]
        on_cpu = platform == "cpu"
        alive, turn_secs = (len(candidates), 4.0) if on_cpu else (2, 2.0)
        measured: list[Measured] = []
        for first in range(0, len(candidates), alive):
            some = candidates[first : first + alive]
            measured += measure(some, table, part, turn_secs=turn_secs, at_once=2)
        add_figures(plan, measured, peaks, table)
        table.end()


def add_figures(
    plan: Plan, measured: Sequence[Measured], peaks: Mapping[str, float], table: Table
) -> None:
    """Speeds of all ways, and our fastest over PyTorch's fastest, by type."""
    ways = {way.name: way for way in plan.ways}
    work = work_of(synthetic_batch(plan.task, plan.rows))
    flops = train_flops(plan.task.model(), work)
    for one in measured:
        name = one.candidate.name
        table.add(name, "sequences", "/s", *one.rates("steps", float(work.sequences)))
        table.add(name, "useful", "GFLOP/s", *one.rates("steps", flops / 1e9))
        peak = peaks.get(_peer_dtype(ways[name].dtype))
        if peak is not None:
            shares = one.rates("steps", 100.0 * flops / peak)
            table.add(name, "of the peak", "%", *shares)
    for dtype in dict.fromkeys(way.dtype for way in plan.ways):
        mine, theirs = (
            fastest(
                [
                    one
                    for one in measured
                    if ways[one.candidate.name].library == library
                    and ways[one.candidate.name].dtype == its
                ],
                "steps",
            )
            for library, its in (("bert_jax", dtype), ("PyTorch", _peer_dtype(dtype)))
        )
        if mine is not None and theirs is not None:
            of = f"**{mine.candidate.name} / {theirs.candidate.name}**"
            table.add(of, "ratio", "x", *ratios(mine, theirs, "steps"))


def _peer_dtype(dtype: str) -> str:
    """What 8-bit floats stand beside: PyTorch has nothing below bfloat16 here."""
    return "bfloat16" if dtype == "fp8" else dtype


def correct_and_peaks(report: Report) -> dict[str, float]:
    """The first two tables of a report; returns the peaks in FLOP/s, by type."""
    # Here, so that a look at the options does not start JAX.
    from benchmarks.correctness import check

    platform = report.machine["accelerator"]["platform"]
    table = report.table(
        "Correctness on this machine",
        "The whole model on packed rows with the same weights, without dropout. Gradients: "
        "the worst of all tensors, relative to its largest entry.",
    )
    check(platform, table, _CORRECTNESS_SECS)
    table.end()
    table = report.table(
        "Peak of a large matrix product",
        "The fastest of five. Shares of the peak below are of the faster library's.",
    )
    peaks = measure_peaks(platform, table)
    table.end()
    return peaks


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    clock = Clock.of(60.0 * options.minutes)
    settings = {"minutes": options.minutes}
    with start_report("train", settings, options.output) as report:
        platform = report.machine["accelerator"]["platform"]
        plans = choose(platform, options.only)
        peaks = correct_and_peaks(report)
        measure_models(plans, platform, peaks, report, clock)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
