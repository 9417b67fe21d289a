"""One model, ours and the peers on the same rows: speed, memory, compile time."""

import importlib.util
import os
import pathlib
import statistics
from collections.abc import Sequence

from benchmarks.machine import num_cores
from benchmarks.measure import Findings
from benchmarks.run_settings import RunSettings
from benchmarks.train_candidates import Order
from benchmarks.train_models import Task, num_parameters, synthetic_batch, work_of
from benchmarks.train_plans import PLANS, Plan
from benchmarks.train_turns import Contest, Measured
from bert_jax.train.flops import train_flops

_FLOAT32, _BFLOAT16, _FP8 = "float32", "bfloat16", "fp8"
_PEER_MODULES = ("torch", "transformers")
# Weights, gradients, two moments, and an update.
_BYTES_A_PARAMETER = 20
_PROCESS_BYTES = 2**30


def measure_model(settings: RunSettings, findings: Findings, name: str) -> None:
    """Measures the plan of this name and holds ours against the fastest peer."""
    plan = next(plan for plan in PLANS[settings.platform] if plan.task.name == name)
    orders = orders_of(plan, settings, findings)
    folder = settings.workdir / "workers"
    folder.mkdir(exist_ok=True)
    all_measured: list[Measured] = []

    def report(measured: Measured) -> None:
        report_candidate(settings, findings, plan.task, measured)
        all_measured.append(measured)

    contest = Contest(
        folder=folder,
        findings=findings,
        seconds_left=settings.seconds_left,
        report=report,
        needed_bytes=_needed_bytes if settings.platform == "cpu" else lambda order: 0.0,
        free_bytes=_free_bytes,
    )
    try:
        if settings.platform == "cpu":
            contest.in_turns(orders, at_once=min(2, num_cores()))
        else:
            contest.one_by_one(orders)
    finally:
        report_comparison(settings, findings, plan, all_measured)


def orders_of(plan: Plan, settings: RunSettings, findings: Findings) -> list[Order]:
    """Whom the plan lets take part, but for peers that are not installed."""
    candidates = list(plan.candidates)
    if settings.quick:
        candidates = candidates[: plan.num_quick]
    missing = [m for m in _PEER_MODULES if importlib.util.find_spec(m) is None]
    if missing and any(not candidate.ours for candidate in candidates):
        findings.left_out(
            "the peers",
            f"{', '.join(missing)} not installed; pip install -e '.[bench]'",
        )
        candidates = [candidate for candidate in candidates if candidate.ours]
    return [
        Order(task=plan.task, candidate=candidate, platform=settings.platform)
        for candidate in candidates
    ]


def report_candidate(
    settings: RunSettings, findings: Findings, task: Task, measured: Measured
) -> None:
    """Keeps all that is known of one candidate."""
    candidate = measured.candidate
    work = work_of(synthetic_batch(task, candidate.rows))
    flops = train_flops(task.model(), work)

    def figure(what: str, unit: str, *values: float) -> None:
        findings.figure(what, unit, *values, of=candidate.name)

    figure("sequences", "/s", *measured.rates(float(work.sequences)))
    figure("real tokens", "/s", *measured.rates(float(work.tokens)))
    figure("useful", "GFLOP/s", *measured.rates(flops / 1e9))
    # What 8-bit floats bring is seen beside bfloat16: their share is of its peak.
    peak = settings.peak_flops(
        _BFLOAT16 if candidate.dtype == _FP8 else candidate.dtype
    )
    if peak is not None:
        figure("of the peak", "%", *measured.rates(100.0 * flops / peak))
    most = max(turn["peak_bytes"] for turn in measured.turns)
    figure("peak memory", "GiB", most / 2**30)
    if "compile time" in measured.facts:
        figure("compile time", "s", measured.facts["compile time"])
    host = [1e3 * turn["host_seconds"] / turn["steps"] for turn in measured.turns]
    figure("host time a step", "ms", *host)


def report_comparison(
    settings: RunSettings,
    findings: Findings,
    plan: Plan,
    all_measured: Sequence[Measured],
) -> None:
    """Our fastest over the fastest peer, and over what is promised for this chip."""
    if settings.peak_flops(_FLOAT32) is None:
        findings.left_out(
            "shares of the machine's peak", "the section `peak` has not run"
        )
    for ratio in plan.ratios:
        ours, theirs = (
            fastest(plan.task, all_measured, ours=is_ours, dtypes=dtypes)
            for is_ours, dtypes in ((True, ratio.ours), (False, ratio.theirs))
        )
        if ours is None or theirs is None:
            continue
        mine, its = (sequences_a_second(plan.task, one) for one in (ours, theirs))
        same_rounds = settings.platform == "cpu"
        findings.figure(
            f"{' or '.join(ratio.ours)}: fastest of ours / fastest peer",
            "x",
            *(
                (a / b for a, b in zip(mine, its, strict=False))
                if same_rounds
                else (statistics.median(mine) / statistics.median(its),)
            ),
            at_least=ratio.at_least,
            note=f"{ours.candidate.name} / {theirs.candidate.name}. {ratio.note}",
        )
    for dtype in (_BFLOAT16, _FP8):
        promised = plan.promised(settings.device_kind, dtype)
        best = fastest(plan.task, all_measured, ours=True, dtypes=(dtype,))
        if promised is not None and best is not None:
            findings.figure(
                f"fastest of ours, {dtype}",
                "sequences/s",
                *sequences_a_second(plan.task, best),
                at_least=promised,
                note=best.candidate.name,
            )


def sequences_a_second(task: Task, measured: Measured) -> tuple[float, ...]:
    """Of every repetition."""
    work = work_of(synthetic_batch(task, measured.candidate.rows))
    return measured.rates(float(work.sequences))


def fastest(
    task: Task, all_measured: Sequence[Measured], *, ours: bool, dtypes: Sequence[str]
) -> Measured | None:
    """Who trains most sequences a second, in the median."""
    found = [
        one
        for one in all_measured
        if one.candidate.ours == ours and one.candidate.dtype in dtypes
    ]
    return max(
        found,
        key=lambda one: statistics.median(sequences_a_second(task, one)),
        default=None,
    )


def _needed_bytes(order: Order) -> float:
    """About what a process takes on a host; activations as if all were kept."""
    cfg, rows = order.task.model(), order.candidate.rows
    tokens = rows * order.task.length
    # Of float32: Korthikanti et al. 2022, equation 2, without half precision.
    a_token = 4 * cfg.num_layers * 17 * cfg.hidden_size
    a_token += 4 * cfg.num_layers * 3 * cfg.num_heads * order.task.length
    activations = tokens * a_token
    return (
        _PROCESS_BYTES + _BYTES_A_PARAMETER * num_parameters(order.task) + activations
    )


def _free_bytes() -> float:
    info = pathlib.Path("/proc/meminfo")
    if not info.exists():
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in info.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")
