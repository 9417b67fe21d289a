"""The metrics of runs as totals and as small tables."""

import itertools
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.evidence_stages import Stages
from benchmarks.evidence_tasks import Task

Line = dict[str, Any]
_QUARTERS = 4


def read_lines(run: pathlib.Path) -> list[Line]:
    """metrics.jsonl of a run directory: whole lines only, none where there is no file."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(x) for x in text.splitlines(True) if x.endswith("\n")]


def calibrated(stages: Stages, name: str, num_steps: int) -> tuple[float, float]:
    """(seconds that are not steps, seconds of a step) of a short run.

    The first is what its command took from start to end beside its steps. A process is
    slow in its first seconds, so that the second half of the windows says what a step
    of a long run takes.
    """
    train = _train(read_lines(stages.workdir / name))
    windows = [
        (after["elapsed_secs"] - before["elapsed_secs"])
        / (after["step"] - before["step"])
        for before, after in itertools.pairwise(train)
    ]
    seconds = statistics.median(windows[len(windows) // 2 :])
    return max(0.0, stages.seconds(name) - num_steps * seconds), seconds


def totals(lines: Sequence[Line], num_steps: int, peak: float) -> dict[str, float]:
    """Tokens, useful FLOPs and speed of a whole run, from its windows.

    There are none where no window was timed, in runs of a few steps.

    Args:
        peak: FLOP/s that "mfu" is a share of.
    """
    train = _train(lines)
    steps = seconds = tokens = flops = 0.0
    before = {"step": 0, "elapsed_secs": 0.0}
    for line in train:
        if before["step"] and "tokens_per_sec" in line:  # not the one that compiles
            span = line["elapsed_secs"] - before["elapsed_secs"]
            steps += line["step"] - before["step"]
            seconds += span
            tokens += line["tokens_per_sec"] * span
            flops += line["mfu"] * peak * span
        before = line
    if not steps:
        return {}
    return {
        "tokens": tokens / steps * num_steps,
        "flops": flops / steps * num_steps,
        "tokens_per_sec": tokens / seconds,
        "mfu": flops / seconds / peak,
    }


def pretrain_curve(pretrain: dict[str, Any]) -> list[str]:
    """Losses at each evaluation, as lines of Markdown."""
    lines = pretrain["lines"]
    rows = ["| step | minutes of training | tokens, M | MLM loss, training |"]
    rows[0] += " MLM loss, held out | MLM accuracy | NSP accuracy |"
    rows.append("|" + " --- |" * 7)
    a_step = pretrain["tokens"] / pretrain["step"]
    for line in lines:
        if line["kind"] != "eval":
            continue
        near = [x for x in _train(lines) if x["step"] <= line["step"]]
        rows.append(
            f"| {line['step']:,} | {near[-1]['elapsed_secs'] / 60:.1f} | "
            f"{line['step'] * a_step / 1e6:,.1f} | "
            f"{statistics.fmean(x['mlm_loss'] for x in near[-5:]):.3f} | "
            f"{line['mlm_loss']:.3f} | {line['mlm_accuracy']:.1%} | "
            f"{line['nsp_accuracy']:.1%} |"
        )
    judged = pretrain["eval"]
    return [
        *rows,
        "",
        f"Losses in nats. A model that knows only how often each piece occurs would "
        f"reach {pretrain['unigram_entropy']:.3f}; the larger next-sentence class is "
        f"{judged['nsp_majority']:.1%}. {pretrain['num_parameters']:,} parameters, "
        f"{pretrain['num_tokens'] / 1e6:,.1f} M tokens of text.",
    ]


def finetune_curve(tasks: Sequence[Task], found: dict[str, Any]) -> list[str]:
    """Training and dev loss by quarters of the steps, as lines of Markdown."""
    rows = []
    for task in tasks:
        for arm, runs in found[task.name].items():
            if not runs:
                continue
            lines, end = runs[0]["lines"], runs[0]["step"]
            cells = []
            for quarter in range(1, _QUARTERS + 1):
                until = -(-end * quarter // _QUARTERS)
                train = [x for x in _train(lines) if x["step"] <= until]
                evals = [x for x in lines if x["kind"] == "eval" and x["step"] <= until]
                cells.append(
                    f"{train[-1]['loss']:.3f} / {evals[-1]['loss']:.3f}"
                    if train and evals
                    else ""
                )
            rows.append(f"| {task.title}, {arm} | {' | '.join(cells)} |")
    if not rows:
        return []
    head = "| run, training / dev loss | first quarter | half | three quarters | end |"
    return [head, "|" + " --- |" * 5, *rows]


def _train(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["kind"] == "train"]
