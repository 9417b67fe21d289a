"""Scores, cost and curves of `benchmarks.evidence`, from what its stages have left."""

import dataclasses
import json
import pathlib
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.evidence_curves import (
    finetune_curve,
    pretrain_curve,
    read_lines,
    totals,
)
from benchmarks.evidence_settings import Recipe
from benchmarks.evidence_stages import Stages
from benchmarks.evidence_tasks import (
    MEASURES,
    Task,
    constant_score,
    majority_note,
)
from benchmarks.results import describe_lines

ARMS = ("pretrained", "random")


@dataclasses.dataclass
class Evidence:
    """What a run is about, and what it has found so far beside its directories."""

    device: dict[str, Any]
    model: str
    recipe: Recipe
    settings: dict[str, Any]
    tasks: list[Task]
    seeds: list[int]
    plan: dict[str, Any] | None = None
    failed: list[str] = dataclasses.field(default_factory=list)


def collect(stages: Stages, evidence: Evidence) -> dict[str, Any]:
    """Everything that is done, as JSON can hold it."""
    device = evidence.device
    peak = 1e12 * device["peak_tflops"] * device["count"]
    found: dict[str, Any] = {"pretrain": None, "tasks": {}}
    results = _results(stages, "pretrain")
    if results is not None:
        lines = read_lines(stages.workdir / "pretrain")
        found["pretrain"] = {
            **{k: v for k, v in results.items() if k not in ("mask_examples", "kind")},
            **totals(lines, results["step"], peak),
            "seconds": stages.seconds("pretrain"),
            "lines": lines,
        }
    for task in evidence.tasks:
        arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for arm in ARMS:
            for seed in evidence.seeds:
                name = f"{task.name}-{arm}-{seed}"
                results = _results(stages, name)
                if results is None:
                    continue
                lines = read_lines(stages.workdir / name)
                arms[arm].append(
                    {
                        **results,
                        **totals(lines, results["step"], peak),
                        "seed": seed,
                        "seconds": stages.seconds(name),
                        "lines": lines,
                    }
                )
        found["tasks"][task.name] = arms
    found["unfinished"] = {
        name: lines
        for name, record in stages.records.items()
        if not record["done"] and (lines := read_lines(stages.workdir / name))
    }
    return found


def _results(stages: Stages, name: str) -> dict[str, Any] | None:
    """results.json of a stage that is done."""
    if not stages.records.get(name, {}).get("done"):
        return None
    return json.loads((stages.workdir / name / "results.json").read_text())


def write_report(
    folder: pathlib.Path,
    machine: dict[str, Any],
    stages: Stages,
    evidence: Evidence,
    *,
    complete: bool,
) -> list[pathlib.Path]:
    """Writes `evidence-MACHINE-DATE.json` and the same as `.md`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found = collect(stages, evidence)
    where = machine["machine"]
    if evidence.device["count"] > 1:
        where += f"-x{evidence.device['count']}"
    stem = f"evidence-{where}-{machine['date']}"
    content = {
        "benchmark": "evidence",
        "complete": complete,
        "failed": evidence.failed,
        "machine": machine,
        "device": evidence.device,
        "settings": evidence.settings,
        "plan": evidence.plan,
        "stages": stages.records,
        **found,
    }
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    lines = _markdown(machine, stages, evidence, found, complete=complete)
    paths[1].write_text("\n".join(lines).rstrip() + "\n")
    return paths


def _markdown(
    machine: dict[str, Any],
    stages: Stages,
    evidence: Evidence,
    found: dict[str, Any],
    *,
    complete: bool,
) -> list[str]:
    minutes = f"# What {evidence.recipe.minutes:g} minutes of"
    device = evidence.device
    what = f"{device['count']} x {device['kind']}"
    if device["platform"] == "cpu":
        what = f"{machine['cores']} cores of {machine['cpu']}"
    title = f"{minutes} {what} buy: BERT-{evidence.model}"
    lines = [f"{title}, {machine['date']}", ""]
    for line in (*describe_lines(machine), _setup(evidence)):
        lines += [line, ""]
    if evidence.failed:
        lines += [f"- **failed**: {text}" for text in evidence.failed] + [""]
    elif not complete:
        lines += ["**Interrupted**: these are the results up to then.", ""]
    lines += _scores(evidence, found["tasks"])
    lines += _cost(stages, evidence, found)
    if found["pretrain"] is not None:
        lines += ["## Pretraining", "", *pretrain_curve(found["pretrain"]), ""]
    if curves := finetune_curve(evidence.tasks, found["tasks"]):
        lines += ["## Fine-tuning: loss (first seed)", "", *curves, ""]
    lines += ["## Commands", ""]
    lines += [
        "From random weights with `--from-scratch`, other seeds with `--seed`.",
        "",
    ]
    lines += ["```"]
    others = ("-random-", *(f"-{seed}" for seed in evidence.seeds[1:]))
    lines += [
        shlex.join(record["command"])
        for name, record in stages.records.items()
        if not any(text in name for text in others)
    ]
    return [*lines, "```"]


def _setup(evidence: Evidence) -> str:
    """The settings in a few sentences."""
    r, s = evidence.recipe, evidence.settings
    vocab = s["vocab"] or (f"{r.vocab_size:,} pieces" if r.vocab_size else "BERT's own")
    text = (
        f"Pretraining for {r.minutes:g} minutes, from command to results, compiling "
        f"included: packed rows of {r.sequence_length} tokens, {r.batch_size} a step, "
        f"AdamW at {r.learning_rate:g}, masks {r.mask_rate:.0%}, dropout "
        f"{r.dropout_rate:g}, next-sentence prediction; text {s['source']}, "
        f"vocabulary {vocab}. "
        f"Fine-tuning: {r.tune_epochs} epochs at {r.tune_learning_rate:g}, "
        f"{r.tune_batch_size} rows of {r.tune_sequence_length} tokens a step, settings "
        "and seeds equal for both arms, none of them chosen by a score."
    )
    if r.max_train is not None:
        text += f" **At most {r.max_train:,} training examples of a task**, drawn at random."
    return text


def _scores(evidence: Evidence, tasks: dict[str, Any]) -> list[str]:
    lines = ["## Scores on the dev sets, in percent", ""]
    lines += ["| task | examples | score | constant answer | random weights |"]
    lines[-1] += " pretrained | gain |"
    lines += ["|" + " --- |" * 7]
    for task in evidence.tasks:
        arms = tasks[task.name]
        every = [one for arm in ARMS for one in arms[arm]]
        if not every:
            continue
        for measure in task.measures:
            values = {arm: [x["eval"][measure] for x in arms[arm]] for arm in ARMS}
            constant = constant_score(measure, every[0])
            gain = ""
            if values["pretrained"] and values["random"]:
                difference = statistics.fmean(values["pretrained"]) - statistics.fmean(
                    values["random"]
                )
                gain = f"{100 * difference:+.1f}"
            lines.append(
                f"| {task.title} | {every[0]['num_train']:,} / "
                f"{every[0]['num_validation']:,} | {MEASURES[measure]} | "
                f"{100 * constant:.1f} ({majority_note(measure)}) | "
                f"{_percent(values['random'])} | {_percent(values['pretrained'])} | "
                f"{gain} |"
            )
    return [*lines, ""]


def _percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    text = f"{100 * statistics.fmean(values):.1f}"
    if len(values) > 1:
        text += f" ({100 * min(values):.1f}–{100 * max(values):.1f})"
    return text


def _cost(stages: Stages, evidence: Evidence, found: dict[str, Any]) -> list[str]:
    device = evidence.device
    lines = ["## Cost", ""]
    lines += ["| stage | seconds | tokens trained on | useful FLOPs | tokens/s | MFU |"]
    lines += ["|" + " --- |" * 6]
    trained = {"pretrain": found["pretrain"]}
    for task, arms in found["tasks"].items():
        for arm in ARMS:
            trained |= {f"{task}-{arm}-{x['seed']}": x for x in arms[arm]}
    for name, record in stages.records.items():
        cells = [name + ("" if record["done"] else " (not finished)")]
        cells.append(f"{record['seconds']:.0f}")
        one = trained.get(name)
        if one is not None and "tokens" in one:
            cells += [f"{one['tokens'] / 1e6:,.2f} M", f"{one['flops']:.2e}"]
            cells += [f"{one['tokens_per_sec']:,.0f}", f"{one['mfu']:.1%}"]
        lines.append(f"| {' | '.join(cells + [''] * (6 - len(cells)))} |")
    total = sum(record["seconds"] for record in stages.records.values())
    lines += [f"| all | {total:.0f} | | | | |", ""]
    lines += [
        f"On {device['count']} device(s) of kind {device['kind']}. MFU is the share of "
        f"this machine's own measured {device['peak_tflops']:.3g} TFLOP/s a device "
        f"({device['product']} product); useful FLOPs count real tokens and masked "
        "slots, once. Tokens and FLOPs of steps that compile are taken for those of "
        "the others.",
        "",
    ]
    if evidence.plan is not None:
        plan = evidence.plan
        lines += [
            f"The calibration took {plan['step_secs']:.3g} s a step and "
            f"{plan['overhead_secs']:.0f} s for all else (start-up, compiling, judging, "
            f"saving), which left {plan['num_steps']:,} steps for {evidence.recipe.minutes:g} "
            "minutes; it comes on top of them.",
            "",
        ]
    if found["pretrain"] is not None:
        seconds = found["pretrain"]["goodput"]
        parts = ", ".join(
            f"{name.removesuffix('_secs').replace('_', ' ')} {value:.1f}"
            for name, value in seconds.items()
            if name not in ("share", "wall_secs")
        )
        lines += [f"Seconds of pretraining by kind: {parts}.", ""]
    return lines
