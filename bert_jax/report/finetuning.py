"""What the page says about fine-tuned runs, one comparison for each task and its data."""

from matplotlib.axes import Axes

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.comparison import GROUPS, Comparison, Score
from bert_jax.report.confusion import confusion_chart
from bert_jax.report.curves import Curve, Shown, curve_chart
from bert_jax.report.provenance import warnings
from bert_jax.report.sections import Fact, Figure, Headline, Row, Section, Table
from bert_jax.train.tasks.task import Metric

_DASHES = ("-", "--", ":", "-.")


def headline(comparison: Comparison) -> Headline:
    """The deciding metric of the best of each group; all metrics of a group alone."""
    metric, best = comparison.metric, comparison.best()
    if len(best) == 1:
        (score,) = best
        figures = [
            Figure(formats.number(score.values[m.name], m.form), m.title)
            for m in comparison.task.metrics
            if m.name in score.values
        ]
        return Headline(f"{comparison.title}, {formats.inner(score.name)}", figures)
    figures = [
        Figure(
            formats.number(score.values[metric.name], metric.form),
            f"{metric.title} {GROUPS[score.color]}",
            "" if formats.inner(score.name) == GROUPS[score.color] else score.name,
        )
        for score in best
    ]
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
    """The files of the first run, and how many examples each run was trained on."""
    facts = []
    if comparison.runs:
        labels = comparison.runs[0].info.labels or ()
        files = comparison.runs[0].config["task"]
        facts = [
            ("Outputs of the head", formats.count(len(labels))),
            ("Training file", files["train"] or "embedded example"),
            ("Held-out file", files["validation"] or "embedded example"),
        ]
    for name, run in zip(comparison.names(), comparison.runs, strict=True):
        number = formats.count(run.results.get("num_train"))
        facts.append((f"Training examples, {formats.inner(name)}", number))
    if comparison.baselines:
        seconds = formats.duration(comparison.baselines["seconds"])
        facts.append(("Time, baselines", seconds))
    return facts


def _table(comparison: Comparison) -> Table:
    """Every metric that something was measured by."""
    scores = comparison.scores()
    metrics = [
        m for m in comparison.task.metrics if any(m.name in s.values for s in scores)
    ]

    def cell(score: Score, metric: Metric) -> str:
        if metric.name not in score.values:
            return "–"
        ends = [formats.number(x, metric.form) for x in score.interval(metric) or ()]
        value = formats.number(score.values[metric.name], metric.form)
        return "\n".join([value, " to ".join(ends)] if ends else [value])

    lower = [m.title for m in metrics if not m.larger_is_better]
    notes = ["Below a score stands its 95% interval, where it can be had."]
    notes += [f"Lower is better: {', '.join(lower)}."] if lower else []
    return Table(
        title="Scores on the held-out examples",
        columns=["", *(formats.heading(metric.title) for metric in metrics)],
        rows=[Row(s.name, [cell(s, metric) for metric in metrics]) for s in scores],
        caption=" ".join(notes),
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
    value = ours.values[metric.name]
    text = f"{ours.name} ends at {formats.number(value, metric.form)}"
    gaps = [
        f"{formats.gap(value - rival.values[metric.name], metric.form)} "
        f"{formats.inner(rival.name)}"
        for rival in rivals
    ]
    text += f", {formats.listed(gaps)}." if gaps else "."
    if ours.interval(metric):
        text += " Thin lines mark 95% intervals for the number of held-out examples."
    return text if metric.larger_is_better else f"{text} Lower is better."


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
