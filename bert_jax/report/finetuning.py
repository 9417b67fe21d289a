"""What the page says about fine-tuning: the comparison, the curves, the provenance."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart, Line
from bert_jax.report.inputs import Record, Run, series

_INITIAL = {
    "pretrained": ("With pretraining", "accent"),
    "random": ("Without pretraining", "other"),
}
_BASELINES = {
    "majority": "Majority class",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
_GROUPS = ("accent", "other", "plain")  # with pretraining, without, baselines
_DASHES = ("-", "--", ":", "-.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One row of the comparison."""

    name: str
    color: str
    accuracy: float | None
    macro_f1: float | None
    num_validation: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of the accuracy, from the size of the validation set."""
        if self.accuracy is None or not self.num_validation:
            return None
        n, p, z = self.num_validation, self.accuracy, 1.959964
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def initial(run: Run) -> str:
    """ "pretrained" or "random": the weights that the run began with.

    Raises:
        ValueError: the results say neither.
    """
    value = run.results.text("initial")
    if value not in _INITIAL:
        raise ValueError(
            f"{run.results.source}: initial={value!r}, expected one of "
            f"{sorted(_INITIAL)}. Fine-tune again with this version."
        )
    return value


def check_classifiers(runs: Sequence[Run]) -> None:
    """Refuses what no table or chart here describes.

    Raises:
        ValueError: a run is a regression.
    """
    for run in runs:
        if run.results.number("constant_mse") is not None:
            raise ValueError(
                f"{run.results.source} is of a regression; expected a classifier, whose "
                "accuracy the page is about. `bert-jax evaluate` shows its correlations."
            )


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run; the directory is added where two begin alike."""
    kinds = [initial(run) for run in runs]
    folders = _short_paths([run.path for run in runs])
    return [
        _INITIAL[kind][0] + (f" ({folder})" if kinds.count(kind) > 1 else "")
        for kind, folder in zip(kinds, folders, strict=True)
    ]


def scores(runs: Sequence[Run], baselines: Record | None) -> list[Score]:
    """Every classifier: the baselines, then the runs without pretraining, then with."""
    rows = []
    for key in _BASELINES if baselines is not None else ():
        assert baselines is not None
        rows.append(
            Score(
                name=_BASELINES[key],
                color="plain",
                accuracy=baselines.rate(key, "accuracy"),
                macro_f1=baselines.rate(key, "macro_f1"),
                num_validation=baselines.count("num_validation"),
            )
        )
    named = list(zip(run_names(runs), runs, strict=True))
    for kind in ("random", "pretrained"):
        rows += [
            Score(
                name=name,
                color=_INITIAL[kind][1],
                accuracy=run.results.rate("eval", "accuracy"),
                macro_f1=run.results.rate("eval", "macro_f1"),
                num_validation=run.results.count("num_validation"),
            )
            for name, run in named
            if initial(run) == kind
        ]
    return rows


def comparison_chart(rows: Sequence[Score]) -> Chart | None:
    """Accuracies as horizontal bars with their intervals."""
    drawn = [
        row for row in rows if row.accuracy is not None and math.isfinite(row.accuracy)
    ]
    if not drawn:
        return None

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        for i, row in enumerate(drawn):
            accuracy = row.accuracy
            assert accuracy is not None
            axes.barh(-i, accuracy, height=0.3, color=PALETTE[row.color])
            right = accuracy
            if row.interval is not None:
                low, right = row.interval
                axes.plot([low, right], [-i, -i], color=PALETTE["ink"], linewidth=0.9)
            axes.annotate(
                formats.shorten(row.name, 42),
                (0, -i),
                xytext=(0, 15),
                textcoords="offset points",
                va="center",
                fontsize=10,
            )
            axes.annotate(
                formats.percent(accuracy),
                (1, -i),
                xytext=(0, 15),
                textcoords="offset points",
                va="center",
                ha="right",
                fontsize=10,
                fontweight="bold",
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(-len(drawn) + 0.7, 0.68)
        axes.set_yticks([])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(lambda x, _: charts.percent_tick(x))

    return charts.draw(
        "finetune-comparison",
        "Validation accuracy",
        _comparison_caption(drawn),
        paint,
        size=(charts.WIDTH, 0.45 + 0.56 * len(drawn)),
    )


def comparison_notes(rows: Sequence[Score], runs: Sequence[Run]) -> list[str]:
    """Reasons not to compare the rows, where there are any."""
    sizes = sorted({r.num_validation for r in rows if r.num_validation is not None})
    notes = []
    if len(sizes) > 1:
        listed = ", ".join(formats.count(size) for size in sizes)
        notes.append(
            f"The rows were measured on validation sets of different sizes ({listed}); "
            "their differences are not differences of the models alone."
        )
    if len({repr(run.results.items("labels")) for run in runs}) > 1:
        notes.append("The fine-tuning runs have different labels: different tasks.")
    return notes


def curve_charts(runs: Sequence[Run]) -> list[Chart]:
    """Loss and accuracy of all runs over their steps."""
    made = []
    kinds = [initial(run) for run in runs]
    for name, title, rate in (
        ("loss", "Fine-tuning loss (nats)", False),
        ("accuracy", "Fine-tuning accuracy", True),
    ):
        lines: list[Line] = []
        ends = []
        for i, (label, run) in enumerate(zip(run_names(runs), runs, strict=True)):
            kind = initial(run)
            color = _INITIAL[kind][1]
            dashes = _DASHES[kinds[:i].count(kind) % len(_DASHES)]
            train = series(run, "train", name, rate=rate)
            evals = series(run, "eval", name, rate=rate)
            if train.steps:
                key = "" if evals.steps else label
                lines.append(Line(label=key, data=train, color=color, dashes=dashes))
            if evals.steps:
                lines.append(
                    Line(label=label, data=evals, color=color, dots=True, dashes=dashes)
                )
                show = formats.percent if rate else formats.decimal
                ends.append(f"{show(evals.values[-1])} {formats.inner(label)}")
        if lines:
            caption = "Thin lines are training, dots validation"
            if ends:
                caption += f", which ends at {_listed(ends)}"
            made.append(
                charts.draw_curves(
                    f"finetune-{name}",
                    title,
                    f"{caption}.",
                    lines,
                    tick=charts.percent_tick if rate else "{:g}".format,
                    from_zero=True,
                )
            )
    return made


def provenance(runs: Sequence[Run], pretrain: Run | None) -> list[dict[str, str]]:
    """Where each run's encoder came from, and whether it is the one on this page."""
    rows = []
    for name, run in zip(run_names(runs), runs, strict=True):
        encoder = run.results.table("encoder")
        if initial(run) == "random" or encoder is None:
            origin = (
                "none: weights drawn at random"
                if initial(run) == "random"
                else "not recorded"
            )
            rows.append({"name": name, "origin": origin, "hash": "", "note": ""})
            continue
        step, tensors = encoder.count("step"), encoder.count("num_tensors")
        shown = None if pretrain is None else pretrain.results.count("step")
        differs = None not in (step, shown) and step != shown
        note = f"This page shows step {formats.count(shown)}." if differs else ""
        where = encoder.text("run") or "a run that was not recorded"
        rows.append(
            {
                "name": name,
                "origin": f"{where}, step {formats.count(step)}, "
                f"{formats.count(tensors)} tensors",
                "hash": encoder.text("sha256") or formats.NOT_MEASURED,
                "note": note,
            }
        )
    return rows


def _comparison_caption(drawn: Sequence[Score]) -> str:
    def best(color: str) -> Score | None:
        return max((r for r in drawn if r.color == color), key=_accuracy, default=None)

    groups = [row for color in _GROUPS if (row := best(color)) is not None]
    ours, rivals = groups[0], groups[1:]
    caption = f"{ours.name} ends at {formats.percent(ours.accuracy)}"
    clauses, overlapping = [], []
    for rival in rivals:
        gap = formats.gap(_accuracy(ours) - _accuracy(rival))
        clauses.append(f"{gap} {formats.inner(rival.name)}")
        if ours.interval is not None and rival.interval is not None:
            low, high = sorted((ours.interval, rival.interval))
            if high[0] <= low[1]:
                overlapping.append(formats.inner(rival.name))
    if clauses:
        caption += f", {_listed(clauses)}"
    if ours.interval is not None:
        caption += (
            f"; thin lines mark 95{formats.SPACE}% intervals for the size of the "
            "validation set"
        )
        if overlapping:
            caption += f", and its own overlaps that of {_listed(overlapping)}"
    return f"{caption}."


def _accuracy(row: Score) -> float:
    assert row.accuracy is not None
    return row.accuracy


def _listed(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _short_paths(paths: Sequence[Path]) -> list[str]:
    """Directory names, with as many parents as it takes to tell them apart."""
    for depth in range(1, max((len(p.parts) for p in paths), default=0) + 1):
        short = [Path(*p.parts[-depth:]).as_posix() for p in paths]
        if len(set(short)) == len(paths):
            return short
    return [path.as_posix() for path in paths]
