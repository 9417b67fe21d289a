"""What the page says about fine-tuned runs, one comparison for each task and its data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.confusion import confusion_chart
from bert_jax.report.curves import Curve, Shown, curve_chart
from bert_jax.report.provenance import start_of, warnings
from bert_jax.report.runs import Run
from bert_jax.report.sections import Fact, Figure, Headline, Row, Section, Table
from bert_jax.train.tasks import task_named
from bert_jax.train.tasks.task import Metric, Task

_COLORS = {
    "pretrained": "accent",
    "earlier": "accent",
    "foreign": "third",
    "random": "other",
}
_GROUPS = {
    "accent": "with pretraining",
    "third": "with another encoder",
    "other": "without pretraining",
    "plain": "without a neural network",
}
_BASELINES = {
    "majority": "Majority class",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
_DASHES = ("-", "--", ":", "-.")


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
    def title(self) -> str:
        """The task and how much it is judged on."""
        name = formats.heading(self.task.name)
        if self.num_examples is None:
            return name
        return f"{name} of {formats.plural(self.num_examples, 'held-out example')}"

    def names(self) -> list[str]:
        """Of each run, by its encoder; the directory is added where two begin alike."""
        kinds = [self._kind(run) for run in self.runs]
        folders = _short_paths([run.path for run in self.runs])
        return [
            kind
            + (f" ({folder})" if kinds.count(kind) > 1 else "")
            + ("" if run.results else f", unfinished at step {run.step:,}")
            for kind, folder, run in zip(kinds, folders, self.runs, strict=True)
        ]

    def _kind(self, run: Run) -> str:
        start = start_of(run, self.pretrain)
        text = formats.heading(_GROUPS[_COLORS[start]])
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
        constant = next((r.results["constant"] for r in self.runs if r.results), {})
        if constant and not rows:
            rows = [Score("Best constant answer", "plain", constant, self.num_examples)]
        tuned = [
            Score(name, self.color(run), run.scores, run.results.get("num_validation"))
            for name, run in zip(self.names(), self.runs, strict=True)
        ]
        order = list(reversed(_GROUPS))
        return rows + sorted(tuned, key=lambda score: order.index(score.color))

    def best(self) -> list[Score]:
        """Of each group, the one with the best value of the deciding metric."""
        name, found = self.metric.name, []
        for color in _GROUPS:
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


def lead(comparison: Comparison) -> str:
    """A sentence on what is compared."""
    runs = comparison.runs
    text = f"{formats.plural(len(runs), 'fine-tuning run')} for {comparison.task.name}"
    trained = sorted({run.results["num_train"] for run in runs if run.results})
    if trained:
        text += f" with {formats.listed([f'{n:,}' for n in trained])} training examples"
    return f"{text}." if runs else ""


def headline(comparison: Comparison) -> Headline:
    """The best of each group, by the metric that decides, and a second one beside it."""
    metric, *others = comparison.task.metrics
    figures = []
    for score in comparison.best():
        alike = [s for s in comparison.scores() if s.color == score.color]
        note = score.name if len(alike) > 1 or score.color == "plain" else ""
        if not note and others and others[0].name in score.values:
            note = others[0].say(score.values[others[0].name])
        figures.append(
            Figure(
                formats.number(score.values[metric.name], metric.form),
                f"{metric.title} {_GROUPS[score.color]}",
                note,
            )
        )
    return Headline(comparison.title, figures)


def section(comparison: Comparison) -> Section:
    """Bars, table, curves and confusion matrices of a comparison."""
    runs, names = comparison.runs, comparison.names()
    prefix = f"finetune-{comparison.task.name}"
    if runs and (data := runs[0].info.data.get("validation")):
        prefix += f"-{data[:6]}"
    matrices = [
        confusion_chart(
            run, f"{prefix}-confusion-{i}", f"Confusion, {formats.inner(name)}"
        )
        for i, (name, run) in enumerate(zip(names, runs, strict=True), start=1)
    ]
    cards = [
        _bars(comparison, prefix),
        _table(comparison),
        *_curves(comparison, prefix),
        *matrices,
    ]
    return Section(
        title=comparison.title,
        warnings=warnings(runs, comparison.pretrain),
        cards=[card for card in cards if card is not None],
    )


def data_facts(comparison: Comparison) -> list[Fact]:
    """The labelled data of the first run, and how long each took."""
    facts = []
    if comparison.runs:
        labels = comparison.runs[0].info.labels or ()
        files = comparison.runs[0].config["task"]
        facts = [
            ("Outputs", formats.count(len(labels))),
            ("Training file", files["train"] or "embedded example"),
            ("Held-out file", files["validation"] or "embedded example"),
        ]
    for name, run in zip(comparison.names(), comparison.runs, strict=True):
        number = formats.count(run.results.get("num_train"))
        facts.append((f"Training examples, {formats.inner(name)}", number))
        seconds = formats.duration(run.elapsed_secs)
        facts.append((f"Time, {formats.inner(name)}", seconds))
    if comparison.baselines:
        seconds = formats.duration(comparison.baselines["seconds"])
        facts.append(("Time, baselines", seconds))
    return facts


def _table(comparison: Comparison) -> Table:
    scores, metrics = comparison.scores(), comparison.task.metrics
    metrics = tuple(m for m in metrics if any(m.name in s.values for s in scores))
    intervals = [score.interval(comparison.metric) for score in scores]
    rows = []
    for score, interval in zip(scores, intervals, strict=True):
        cells = [
            formats.number(score.values[m.name], m.form)
            if m.name in score.values
            else "–"
            for m in metrics
        ]
        if any(intervals):
            form = comparison.metric.form
            ends = [formats.number(end, form) for end in interval or ()]
            cells.insert(1, " to ".join(ends) or "–")
        rows.append(Row(score.name, cells))
    titles = [formats.heading(metric.title) for metric in metrics]
    if any(intervals):
        titles.insert(1, "95% interval")
    lower = [formats.heading(m.title) for m in metrics if not m.larger_is_better]
    return Table(
        title="Scores on the held-out examples",
        columns=["", *titles],
        rows=rows,
        caption=f"Lower is better: {', '.join(lower)}." if lower else "",
    )


def _bars(comparison: Comparison, prefix: str) -> Chart | None:
    """The deciding metric as horizontal bars with their intervals."""
    metric = comparison.metric
    drawn = [s for s in comparison.scores() if metric.name in s.values]
    if not drawn:
        return None
    values = [score.values[metric.name] for score in drawn]
    ends = [end for score in drawn for end in score.interval(metric) or ()]
    low = min(0.0, *values, *ends)
    high = 1.0 if max(values) <= 1.0 else 1.05 * max(values)

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        for place, (score, value) in enumerate(zip(drawn, values, strict=True)):
            axes.barh(-place, value, height=0.3, color=PALETTE[score.color])
            if interval := score.interval(metric):
                ink = PALETTE["ink"]
                axes.plot(interval, [-place, -place], color=ink, linewidth=0.9)
            name = formats.shorten(score.name, 42)
            shown = formats.number(value, metric.form)
            for text, x, side, weight in (
                (name, low, "left", "normal"),
                (shown, high, "right", "bold"),
            ):
                axes.annotate(
                    text,
                    (x, -place),
                    xytext=(0, 15),
                    textcoords="offset points",
                    va="center",
                    ha=side,
                    fontsize=10,
                    fontweight=weight,
                )
        axes.set_xlim(low, high)
        axes.set_ylim(-len(drawn) + 0.7, 0.68)
        axes.set_yticks([])
        if (low, high) == (0.0, 1.0):
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        form = ".0%" if metric.form.endswith("%") else "g"
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:{form}}")

    return charts.draw(
        f"{prefix}-comparison",
        f"{formats.heading(metric.title)} on the held-out examples",
        _caption(comparison),
        paint,
        size=(charts.WIDTH, 0.45 + 0.56 * len(drawn)),
    )


def _caption(comparison: Comparison) -> str:
    """How the best compares with the best of every other group."""
    metric = comparison.metric
    ours, *rivals = comparison.best()
    value, interval = ours.values[metric.name], ours.interval(metric)
    text = f"{ours.name} ends at {formats.number(value, metric.form)}"
    gaps, overlapping = [], []
    for rival in rivals:
        gap = formats.gap(value - rival.values[metric.name], metric.form)
        gaps.append(f"{gap} {formats.inner(rival.name)}")
        other = rival.interval(metric)
        if interval and other and interval[0] <= other[1] and other[0] <= interval[1]:
            overlapping.append(formats.inner(rival.name))
    if gaps:
        text += f", {formats.listed(gaps)}"
    if interval:
        text += ". Thin lines mark 95% intervals for the number of held-out examples"
        if overlapping:
            text += f"; its own overlaps that of {formats.listed(overlapping)}"
    return f"{text}." if metric.larger_is_better else f"{text}. Lower is better."


def _curves(comparison: Comparison, prefix: str) -> list[Chart]:
    """The loss, and the first metric that has a curve and not its end alone."""
    kinds: list[str] = []
    shown = []
    for name, run in zip(comparison.names(), comparison.runs, strict=True):
        kinds.append(comparison.color(run))
        dashes = _DASHES[(kinds.count(kinds[-1]) - 1) % len(_DASHES)]
        shown.append(Shown(run, name, kinds[-1], dashes))
    with_curve = [
        metric
        for metric in comparison.task.metrics
        if any(
            len(run.series(kind, metric.name).steps) > 1
            for run in comparison.runs
            for kind in ("train", "eval")
        )
    ]
    curves = [Curve(metric="loss", title="Fine-tuning loss")]
    curves += [
        Curve(metric=m.name, title=formats.heading(m.title), form=m.form)
        for m in with_curve[:1]
    ]
    made = (curve_chart(x, shown, f"{prefix}-{x.metric}") for x in curves)
    return [chart for chart in made if chart is not None]


def _short_paths(paths: Sequence[Path]) -> list[str]:
    """Directory names, with as many parents as it takes to tell them apart."""
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        short = [Path(*path.parts[-depth:]).as_posix() for path in paths]
        if len(set(short)) == len(paths):
            return short
    return [path.as_posix() for path in paths]
