"""Fine-tuned runs and baselines of one task that were judged on the same examples."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.data.plural import plural
from bert_jax.report import charts, formats
from bert_jax.report.cards import Figure, Part, Section, Table, settings_table
from bert_jax.report.provenance import start_of, warnings
from bert_jax.report.runs import Run, Score
from bert_jax.train.tasks import task_named
from bert_jax.train.tasks.label_scores import PER_LABEL
from bert_jax.train.tasks.task import Metric, Task

# The name and colour of what a run began with.
_STARTS = {
    "random": ("without pretraining", "other"),
    "foreign": ("with another encoder", "third"),
    "earlier": ("with less pretraining", "accent"),
    "pretrained": ("with pretraining", "accent"),
}
_BASELINES = {
    "constant": "Best constant answer",
    "majority": "Majority class",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
_MOST_LABELS = 20  # that a table shows unfolded
_LOSS = Metric("loss", "fine-tuning loss", ".2f")


def compare(
    runs: Sequence[Run], baselines: dict[str, Any] | None, pretrain: Run | None
) -> list[Part]:
    """One part for each task and its held-out data, in the order of the runs.

    Args:
        runs: fine-tuned runs.
        baselines: results.json of `baselines`, which stands beside the runs of its data.
        pretrain: the pretraining run that the page shows.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        key = (str(run.info.task), str(run.info.data.get("validation")))
        groups.setdefault(key, []).append(run)
    known = {}
    if baselines is not None:
        key = (baselines["task"], baselines["data"]["validation"])
        groups.setdefault(key, [])
        known[key] = baselines
    return [
        _part(task_named(key[0]), key[1], group, known.get(key, {}), pretrain)
        for key, group in groups.items()
    ]


def _part(
    task: Task,
    data: str,
    runs: Sequence[Run],
    baselines: dict[str, Any],
    pretrain: Run | None,
) -> Part:
    scores = _simple_scores(baselines, runs) + _tuned_scores(runs, pretrain)
    subject = formats.heading(task.name)
    if runs and (file := _file_of(runs[0].config["task"])):
        subject += f" of {file}"
    if number := next((x.num_examples for x in scores if x.num_examples), None):
        subject += f", {plural(number, 'held-out example')}"
    section = Section(
        title=subject,
        warnings=warnings(runs, pretrain),
        # The names of GLUE's tasks have a slash, which the name of a file cannot.
        cards=_cards(
            task, scores, f"finetune-{task.name.replace('/', '-')}-{data[:6]}"
        ),
    )
    tuned = {score.name: score.run for score in scores if score.run}
    configs = {name: run.config for name, run in tuned.items()}
    return Part(
        subject=subject,
        figures=_figures(task, scores),
        sections=[section],
        settings=[settings_table(subject, configs)] if configs else [],
        runs=tuned,
    )


def _file_of(task: Mapping[str, Any]) -> str | None:
    """The name of what a run was judged on, with that of its folder."""
    file, share = task["dev"], ""
    if isinstance(file, float):
        file, share = task["train"], f"a share of {file:g} of "
    return file and share + "/".join(Path(file).parts[-2:])


def _simple_scores(baselines: dict[str, Any], runs: Sequence[Run]) -> list[Score]:
    """The baselines; where there are none, the best constant answer."""
    results = next((run.results for run in runs if run.results), {})
    answers = baselines.get("baselines") or {"constant": results.get("constant")}
    number = (baselines or results).get("num_validation")
    group = "without a neural network"
    return [
        Score(_BASELINES.get(name, name), group, "plain", values, number)
        for name, values in answers.items()
        if values
    ]


def _tuned_scores(runs: Sequence[Run], pretrain: Run | None) -> list[Score]:
    """Of the runs, named by their encoders; the directory is added where two are alike."""
    paths = [run.path.resolve() for run in runs]
    starts = [start_of(run, pretrain) for run in runs]
    names = [
        f"With pretraining to step {run.info.encoder['step']:,}"
        if start == "earlier" and run.info.encoder
        else formats.heading(_STARTS[start][0])
        for run, start in zip(runs, starts, strict=True)
    ]
    made = []
    for run, path, start, name in zip(runs, paths, starts, names, strict=True):
        if names.count(name) > 1:
            name += f" ({os.path.relpath(path, os.path.commonpath(paths))})"
        if not run.results:
            name += f", step {run.step:,} so far"
        number = run.results.get("num_validation")
        made.append(Score(name, *_STARTS[start], run.scores, number, run))
    return sorted(made, key=lambda score: list(_STARTS.values()).index(score[1:3]))


def _figures(task: Task, scores: Sequence[Score]) -> list[Figure]:
    """The deciding metric of the best of each group; all metrics of a group alone."""
    first = _deciding(task, scores)
    choose = max if first.larger_is_better else min
    groups: dict[str, list[Score]] = {}
    for score in scores:
        if first.name in score.values:
            groups.setdefault(score.group, []).append(score)
    figures = []
    for group, members in reversed(groups.items()):
        best = choose(members, key=lambda score: score.values[first.name])
        note = "" if best.name == formats.heading(group) else best.name
        figures += [
            Figure(f"{best.values[x.name]:{x.form}}", f"{x.title} {group}", note)
            for x in task.metrics[: 1 if len(groups) > 1 else None]
            if x.name in best.values
        ]
    return figures


def _cards(task: Task, scores: Sequence[Score], key: str) -> list[Any]:
    """Bars, table, curves and what each run leaves, with pictures named by `key`."""
    curves = (charts.curves(f"{key}-{x.name}", x, scores) for x in task.metrics)
    of_runs = (
        card
        for number, score in enumerate(scores, start=1)
        if score.run
        for card in _run_cards(f"{key}-{number}", score.name, score.run.results)
    )
    cards = [
        charts.bars(f"{key}-comparison", _deciding(task, scores), scores),
        _table(task, scores),
        charts.curves(f"{key}-loss", _LOSS, scores),
        # Some metrics have no curve, but their end alone.
        next(filter(None, curves), None),
        *of_runs,
    ]
    return [card for card in cards if card is not None]


def _run_cards(key: str, name: str, results: Mapping[str, Any]) -> list[Any]:
    """How a run does on single classes and examples, as far as its task tells."""
    cards: list[Any] = [charts.matrix(f"{key}-confusion", name, results)]
    cards.append(charts.reliability(f"{key}-calibration", name, results))
    if rows := results.get("per_label"):
        cards.append(
            Table(
                title=f"Scores of each label: {name}",
                columns=["", *(formats.heading(x) for x in PER_LABEL)],
                rows=[
                    [row["label"], *(f"{row[x]:.3g}" for x in PER_LABEL)]
                    for row in rows
                ],
                folded=len(rows) > _MOST_LABELS,
            )
        )
    if rows := results.get("hardest"):
        cards.append(
            Table(
                title=f"Hardest held-out examples: {name}",
                columns=("Text", "Truth", "Prediction", "Loss"),
                rows=[
                    [row["text"], row["truth"], row["said"], f"{row['loss']:.2f}"]
                    for row in rows
                ],
                caption="The examples with the largest loss. Wrong labels are often "
                "among them.",
                cells="texts",
                folded=True,
            )
        )
    return cards


def _deciding(task: Task, scores: Sequence[Score]) -> Metric:
    return task.deciding({name for score in scores for name in score.values})


def _table(task: Task, scores: Sequence[Score]) -> Table:
    """Every metric that something was measured by."""
    metrics = [x for x in task.metrics if any(x.name in s.values for s in scores)]
    caption = (
        "Below a score, and as a line on its bar, stands its 95% interval, where it can "
        "be had."
    )
    if lower := [metric.title for metric in metrics if not metric.larger_is_better]:
        caption += f" Lower is better: {', '.join(lower)}."
    return Table(
        title="Scores on the held-out examples",
        columns=["", *(formats.heading(metric.title) for metric in metrics)],
        rows=[[s.name, *(_cell(s, metric) for metric in metrics)] for s in scores],
        caption=caption,
    )


def _cell(score: Score, metric: Metric) -> str:
    """A value, and its interval in a second line."""
    if metric.name not in score.values:
        return "–"
    ends = [f"{end:{metric.form}}" for end in score.interval(metric) or ()]
    value = f"{score.values[metric.name]:{metric.form}}"
    return "\n".join(filter(None, [value, " to ".join(ends)]))
