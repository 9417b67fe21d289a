"""Comparisons of fine-tuned runs: those of one task that were judged on the same data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.report import formats
from bert_jax.report.provenance import start_of
from bert_jax.report.runs import Run
from bert_jax.train.tasks import task_named
from bert_jax.train.tasks.task import Metric, Task

_COLORS = {
    "pretrained": "accent",
    "earlier": "accent",
    "foreign": "third",
    "random": "other",
}
GROUPS = {
    "accent": "with pretraining",
    "third": "with another encoder",
    "other": "without pretraining",
    "plain": "without a neural network",
}
_BASELINES = {
    "majority": "Majority class",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}


class Score(NamedTuple):
    """What one run, baseline or constant answer achieves."""

    name: str
    color: str
    values: Mapping[str, float]
    num_examples: int | None

    def interval(self, metric: Metric) -> tuple[float, float] | None:
        """95% of the value of a metric, where that can be had."""
        value = self.values.get(metric.name)
        if value is None or metric.interval is None or not self.num_examples:
            return None
        return metric.interval(value, self.num_examples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """All runs of one task that were judged on the same held-out examples."""

    task: Task
    runs: list[Run]
    baselines: dict[str, Any]
    """results.json of the baselines of that task and data; else empty."""
    pretrain: Run | None
    """The pretraining run that the page shows."""

    @property
    def metric(self) -> Metric:
        """The one that decides."""
        return self.task.metrics[0]

    @property
    def num_examples(self) -> int | None:
        """Of the held-out data."""
        found = [*(run.results for run in self.runs), self.baselines]
        return next((x["num_validation"] for x in found if x), None)

    @property
    def subject(self) -> str:
        """The task and the file that it is judged on."""
        task = formats.heading(self.task.name)
        file = self.runs[0].config["task"]["validation"] if self.runs else None
        return task if file is None else f"{task} of {'/'.join(Path(file).parts[-2:])}"

    @property
    def title(self) -> str:
        """The same, and how much it is judged on."""
        if self.num_examples is None:
            return self.subject
        examples = formats.plural(self.num_examples, "held-out example")
        return f"{self.subject}, {examples}"

    def names(self) -> list[str]:
        """Of each run, by its encoder; the directory is added where two begin alike."""
        kinds = [self._kind(run) for run in self.runs]
        folders = _short_paths([run.path for run in self.runs])
        return [
            kind
            + (f" ({folder})" if kinds.count(kind) > 1 else "")
            + ("" if run.results else f", step {run.step:,} so far")
            for kind, folder, run in zip(kinds, folders, self.runs, strict=True)
        ]

    def _kind(self, run: Run) -> str:
        start = start_of(run, self.pretrain)
        text = formats.heading(GROUPS[_COLORS[start]])
        if start == "earlier" and run.info.encoder:
            text += f" to step {run.info.encoder['step']:,}"
        return text

    def color(self, run: Run) -> str:
        return _COLORS[start_of(run, self.pretrain)]

    def scores(self) -> list[Score]:
        """What needs no network, then the runs without pretraining, then with it."""
        rows = [
            Score(_BASELINES.get(key, key), "plain", values, self.num_examples)
            for key, values in self.baselines.get("baselines", {}).items()
        ]
        constant: dict[str, float] = next(
            (r.results["constant"] for r in self.runs if r.results), {}
        )
        if constant and not rows:
            rows = [Score("Best constant answer", "plain", constant, self.num_examples)]
        tuned = [
            Score(name, self.color(run), run.scores, run.results.get("num_validation"))
            for name, run in zip(self.names(), self.runs, strict=True)
        ]
        order = list(reversed(GROUPS))
        return rows + sorted(tuned, key=lambda score: order.index(score.color))

    def best(self) -> list[Score]:
        """Of each group, the one with the best value of the deciding metric."""
        name, found = self.metric.name, []
        for color in GROUPS:
            group = [x for x in self.scores() if x.color == color and name in x.values]
            if group:
                best = max if self.metric.larger_is_better else min
                found.append(best(group, key=lambda score: score.values[name]))
        return found


def compare(
    runs: Sequence[Run], baselines: dict[str, Any] | None, pretrain: Run | None
) -> list[Comparison]:
    """Sorts runs by task and held-out data, in the order in which they were given."""
    groups: dict[tuple[str, Any], list[Run]] = {}
    for run in runs:
        key = (str(run.info.task), run.info.data.get("validation"))
        groups.setdefault(key, []).append(run)
    theirs = None
    if baselines is not None:
        theirs = (baselines["task"], baselines["data"]["validation"])
        groups.setdefault(theirs, [])
    return [
        Comparison(
            task=task_named(key[0]),
            runs=group,
            baselines=baselines if baselines and key == theirs else {},
            pretrain=pretrain,
        )
        for key, group in groups.items()
    ]


def _short_paths(paths: Sequence[Path]) -> list[str]:
    """Directory names, with as many parents as it takes to tell them apart."""
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        short = [Path(*path.parts[-depth:]).as_posix() for path in paths]
        if len(set(short)) == len(paths):
            return short
    return [path.as_posix() for path in paths]
