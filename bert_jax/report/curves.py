"""Curves over the steps of one run, or of several runs in one chart."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.runs import Run, Series

_MAX_POINTS = 600
_LABEL = 42  # characters that fit above the axes
_LEGEND = 51  # characters of a whole legend that fit beside each other


class Shown(NamedTuple):
    """A run in a chart that may hold several."""

    run: Run
    name: str
    color: str
    """Its role in `charts.PALETTE`."""
    dashes: str = "-"


class Reference(NamedTuple):
    """A value that a curve is compared with."""

    value: float
    label: str
    meaning: str
    """Ends a sentence such as "The loss ends at 5.87, 0.34 below …"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric as a chart shows it."""

    metric: str
    """Its name in metrics.jsonl."""
    title: str
    form: str = ".2f"
    """How values are written: a format of Python's."""
    say: Callable[[float], str] | None = None
    """How values are written where no format of Python's does it."""
    ticks: Callable[[float], str] = formats.compact_tick
    """How values of the axis are written, where `form` is not of shares."""
    from_zero: bool = True
    """Whether the vertical axis begins at 0."""

    def write(self, value: float) -> str:
        return self.say(value) if self.say else formats.number(value, self.form)

    def tick(self, value: float) -> str:
        if self.form.endswith("%"):
            return formats.number(value, ".0%")
        return self.ticks(value)


class _Line(NamedTuple):
    data: Series
    label: str
    color: str
    dashes: str
    dots: bool


def curve_chart(
    curve: Curve,
    shown: Sequence[Shown],
    name: str,
    reference: Reference | None = None,
) -> Chart | None:
    """Thin lines for training, dots on lines for the held-out data.

    Args:
        curve: the metric.
        shown: the runs.
        name: of the PNG file.
        reference: a dashed line to compare with.

    Returns:
        None where no run has logged the metric.
    """
    lines, ends = [], []
    for run, label, color, dashes in shown:
        train, evals = (run.series(k, curve.metric) for k in ("train", "eval"))
        alone = len(shown) == 1
        if train.steps:
            key = "train" if alone else "" if evals.steps else label
            lines.append(_Line(train, key, color, dashes, False))
        if evals.steps:
            key = "validation" if alone else label
            lines.append(_Line(evals, key, color, dashes, True))
            end = curve.write(evals.values[-1])
            ends.append(f"{end} {formats.inner(label)}")
    if not lines:
        return None
    if len(shown) > 1:
        caption = "Thin lines are training, dots held-out data"
        if ends:
            caption += f", which ends at {formats.listed(ends)}"
    elif lines[-1].dots:
        caption = _course(curve, lines[-1].data, reference)
    else:
        caption = _summary(curve, lines[-1].data)
    width = max(_bin_width(line.data) for line in lines)
    if width > 1:
        caption += f". Each point of a training line is the mean of {width} log lines"
    labels = [formats.shorten(line.label, _LABEL) for line in lines if line.label]
    labels += [] if reference is None else [reference.label]
    # Names that do not fit beside each other stand in rows, and the drawing grows.
    columns = len(labels) if len("     ".join(labels)) <= _LEGEND else 1
    rows = len(labels) if columns == 1 else 1
    return charts.draw(
        name,
        curve.title,
        f"{caption}.",
        lambda axes: _paint(axes, curve, lines, reference, columns),
        size=(charts.WIDTH, charts.HEIGHT + 0.19 * max(0, rows - 1)),
    )


def _paint(
    axes: Axes,
    curve: Curve,
    lines: Sequence[_Line],
    reference: Reference | None,
    columns: int,
) -> None:
    faint = any(line.dots for line in lines)
    for line in lines:
        data = thin(line.data)
        style: dict[str, Any] = (
            {"linewidth": 0.9, "alpha": 0.55} if faint else {"linewidth": 1.2}
        )
        if line.dots:
            style = {"linewidth": 1.4, "markersize": 4.2, "zorder": 3}
        axes.plot(
            data.steps,
            data.values,
            line.dashes,
            color=PALETTE[line.color],
            marker="o" if line.dots else "",
            markeredgewidth=0,
            label=formats.shorten(line.label, _LABEL),
            **style,
        )
    if reference is not None:
        # Named in the legend: beside the line, words would meet a curve near it.
        axes.axhline(
            reference.value,
            color=PALETTE["ink"],
            linewidth=1.0,
            dashes=(4, 3),
            alpha=0.7,
            label=reference.label,
        )
    axes.margins(x=0.02)
    if curve.from_zero and axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=charts.TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=charts.TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: curve.tick(y)))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=columns,
            borderaxespad=0.2,
            handlelength=1.4,
            columnspacing=1.2,
        )


def _course(curve: Curve, data: Series, reference: Reference | None) -> str:
    """From the first value to the last."""
    first, last = curve.write(data.values[0]), curve.write(data.values[-1])
    end = f"{last} at step {data.steps[-1]:,}"
    text = f"Validation ends at {end}"
    if first != last:
        verb = "falls" if data.values[-1] < data.values[0] else "rises"
        text = f"Validation {verb} from {first} at step {data.steps[0]:,} to {end}"
    if reference is not None:
        gap = formats.gap(data.values[-1] - reference.value, curve.form)
        text += f", {gap} {reference.meaning}"
    return text


def _summary(curve: Curve, train: Series) -> str:
    """Of what is measured in training only."""
    top = max(train.values)
    return (
        f"The median is {curve.write(statistics.median(train.values))}, the highest "
        f"value {curve.write(top)} at step {train.steps[train.values.index(top)]:,}, "
        f"the last one {curve.write(train.values[-1])}"
    )


def thin(data: Series) -> Series:
    """At most `_MAX_POINTS` points: means over equally many neighbours."""
    width = _bin_width(data)
    starts = range(0, len(data.steps), width)
    return Series(
        [data.steps[start : start + width][-1] for start in starts],
        [statistics.fmean(data.values[start : start + width]) for start in starts],
    )


def _bin_width(data: Series) -> int:
    """How many logged values one drawn point stands for."""
    return max(1, -(-len(data.steps) // _MAX_POINTS))
