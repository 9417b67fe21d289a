"""Speed of a training step on this machine, beside Hugging Face's models in PyTorch.

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

from benchmarks.machine import RESULTS, measure_peaks, start_report
from benchmarks.results import Report, Table
from benchmarks.turns import Candidate, Clock, Measured, fastest, measure, ratios
from benchmarks.workload import Task, modern_task, synthetic_batch, work_of
from bert_jax.train.flops import train_flops

_CORRECTNESS_SECS = 100.0
_TURN_SECS = {"cpu": 4.0, "gpu": 2.0, "tpu": 2.0}
_ABOUT = (
    "Whole steps: forward and backward pass, clipping and AdamW, for BERT with dropout 0.1; "
    "ours also draws new masks in every step. FLOPs are those of the sequences, with the "
    "masked-LM head on the masked positions. A ratio is taken turn by turn."
)


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of training: a library, a type and options."""

    library: str
    """"bert_jax" or "PyTorch"."""
    dtype: str
    """Of the products: float32, bfloat16, or fp8 (ours only)."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `ComputeConfig` for ours; `compile` for PyTorch."""

    @property
    def name(self) -> str:
        said = [
            name if value is True else f"{name} {value}"
            for name, value in self.options.items()
        ]
        return ", ".join([self.library, self.dtype, *said])

    @property
    def peer_dtype(self) -> str:
        """What it stands beside: PyTorch has nothing below bfloat16 here."""
        return "bfloat16" if self.dtype == "fp8" else self.dtype

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
    """A model, the rows of its batches, and how it is trained."""

    task: Task
    rows: int
    groups: tuple[tuple[Way, ...], ...]
    """Those of a group share the device's memory and have their turns together. The most
    important group comes first."""

    @property
    def title(self) -> str:
        packed = ", packed" if self.task.packed else ""
        return (
            f"{self.task.title}, {self.rows} rows of {self.task.length} tokens{packed}"
        )


def _beside_peers(dtype: str, **options: Any) -> tuple[Way, ...]:
    """Ours, and both ways of PyTorch."""
    peers = Way("PyTorch", dtype), Way("PyTorch", dtype, {"compile": True})
    return (Way("bert_jax", dtype, options), *peers)


_CPU = (_beside_peers("float32"), _beside_peers("bfloat16"))
# PyTorch has no build for TPUs, and a TPU belongs to one process at a time.
_TPU = ((Way("bert_jax", "bfloat16"),), (Way("bert_jax", "float32"),))
_TRITON, _CUDNN = {"attention": "triton"}, {"attention": "cudnn"}
_GPU_LARGE = (
    _beside_peers("bfloat16", **_TRITON),
    (Way("bert_jax", "bfloat16"), Way("bert_jax", "fp8", _TRITON)),
    # Its 48 kernels took eight times as long to compile as the two of a loop.
    (Way("bert_jax", "bfloat16", _TRITON | {"scan_layers": False}),),
)
_GPU_BASE = (
    _beside_peers("bfloat16"),
    (Way("bert_jax", "bfloat16", _TRITON), Way("bert_jax", "fp8")),
)
# cuDNN cannot drop attention weights, which ModernBERT does not do.
_GPU_MODERN = (
    (
        Way("bert_jax", "bfloat16", _CUDNN),
        Way("PyTorch", "bfloat16", {"compile": True}),
        Way("bert_jax", "bfloat16", _TRITON),
        Way("bert_jax", "bfloat16"),
    ),
)
PLANS: dict[str, tuple[Plan, ...]] = {
    "cpu": (
        Plan(Task(size="mini", length=128), 32, _CPU),
        Plan(Task(size="base", length=128), 8, _CPU),
        Plan(Task(size="base", length=512), 2, _CPU),
        Plan(Task(size="small", length=128), 16, _CPU),
        Plan(modern_task("small"), 2, _CPU),
    ),
    "gpu": (
        Plan(Task(size="large", length=512, packed=True), 16, _GPU_LARGE),
        Plan(Task(size="base", length=128), 256, _GPU_BASE),
        Plan(modern_task("small"), 64, _GPU_MODERN),
        Plan(modern_task("base"), 16, _GPU_MODERN),
    ),
    "tpu": (
        Plan(Task(size="base", length=128), 64, _TPU),
        Plan(Task(size="large", length=512, packed=True), 8, _TPU),
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
    output: pathlib.Path = RESULTS
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
    """Adds a table for each plan, with the first group of all of them, then the second of
    all, and so on. Of the time that is left, earlier groups may take more.

    Args:
        plans: the most important first.
        platform: as JAX names it.
        peaks: FLOP/s of large products, by type.
        report: is given the tables.
        clock: of all of this.
    """
    tables = [report.table(plan.title, _ABOUT) for plan in plans]
    measured: list[list[Measured]] = [[] for _ in plans]
    groups = sorted(
        (number, at)
        for at, plan in enumerate(plans)
        for number in range(len(plan.groups))
    )
    for done, (number, at) in enumerate(groups):
        plan, table = plans[at], tables[at]
        ways = plan.groups[number]
        measured[at] += measure(
            [way.candidate(plan.task, plan.rows, platform) for way in ways],
            table,
            clock,
            share=2.0 / (len(groups) - done + 1),
            turn_secs=_TURN_SECS[platform],
        )
        table.figures.clear()
        add_figures(plan, measured[at], peaks, table)
        table.end()
        report.write()


def add_figures(
    plan: Plan,
    measured: Sequence[Measured],
    peaks: Mapping[str, float],
    table: Table,
) -> None:
    """Speeds of all ways, and our fastest over PyTorch's fastest, by type."""
    ways = {way.name: way for group in plan.groups for way in group}
    work = work_of(plan.task, synthetic_batch(plan.task, plan.rows))
    flops = train_flops(plan.task.model(), work)
    for one in measured:
        name = one.candidate.name
        table.add(name, "sequences", "/s", *one.rates("steps", float(work.sequences)))
        table.add(name, "tokens", "k/s", *one.rates("steps", float(work.tokens) / 1e3))
        table.add(name, "useful", "GFLOP/s", *one.rates("steps", flops / 1e9))
        peak = peaks.get(ways[name].peer_dtype)
        if peak is not None:
            shares = one.rates("steps", 100.0 * flops / peak)
            table.add(name, "of the peak", "%", *shares)

    def best(library: str, dtype: str) -> Measured | None:
        some = [
            one
            for one in measured
            if (way := ways[one.candidate.name]).library == library
            and way.dtype == dtype
        ]
        return fastest(some, "steps")

    for dtype, peer in {way.dtype: way.peer_dtype for way in ways.values()}.items():
        mine, theirs = best("bert_jax", dtype), best("PyTorch", peer)
        if mine is not None and theirs is not None:
            of = f"**{mine.candidate.name} / {theirs.candidate.name}**"
            table.add(of, "ratio", "x", *ratios(mine, theirs, "steps"))


def correct_and_peaks(report: Report) -> dict[str, float]:
    """The first two tables of a report; returns the peaks in FLOP/s, by type."""
    # Here, so that a look at the options does not start JAX.
    from benchmarks.correctness import check

    platform = report.machine["accelerator"]["platform"]
    about = (
        "Whole models on packed rows beside PyTorch in float32 on the CPU, with the same "
        "weights, without dropout. Gradients: the worst of all tensors, relative to its "
        "largest entry."
    )
    check(platform, report.table("Correctness here", about), _CORRECTNESS_SECS)
    about = "The fastest of at most three. Shares of the peak below are of the faster library's."
    table = report.table("Peak of a large matrix product", about)
    return measure_peaks(platform, table)


def run(name: str, options: Options, needed: str | None = None) -> int:
    """The whole benchmark under a name for its files; returns the exit code.

    Where a platform is needed, another one is an error that is printed.
    """
    clock = Clock.of(60.0 * options.minutes)
    settings = {"minutes": options.minutes}
    with start_report(name, settings, options.output) as report:
        platform = report.machine["accelerator"]["platform"]
        if platform != (needed or platform):
            raise ValueError(
                f"JAX found a {platform} here, not an NVIDIA GPU. Install jax[cuda13], or "
                "measure this machine with `python -m benchmarks.train`."
            )
        plans = choose(platform, options.only)
        peaks = correct_and_peaks(report)
        measure_models(plans, platform, peaks, report, clock)
    return report.exit_code


def main() -> int:
    return run("train", tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
