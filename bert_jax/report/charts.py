"""Draws the charts: curves over steps, bars of scores and confusion matrices.

A chart is an inline SVG and a PNG. Colours are roles: in the PNG they are the light
palette; in the SVG each becomes a CSS variable of the page, so that the same drawing
serves light and dark.
"""

import dataclasses
import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bert_jax.report import formats
from bert_jax.report.runs import Score
from bert_jax.train.tasks.task import Metric

# Every value differs, because the SVG finds a role by its value.
PALETTE = {
    "ink": "#1f2430",
    "muted": "#6a7180",
    "rule": "#e3e4e8",
    "surface": "#fffffe",
    "accent": "#2a5db0",
    "other": "#b8722c",
    "third": "#7a4fa3",
    "plain": "#a3a9b5",
    "on-accent": "#fefefe",
}
_DASHES = ("-", "--", ":", "-.")
# Of a confusion matrix: that of 100 takes half a minute and 4 MB, that of 500 25 times both.
_MOST_CLASSES = 40
_WIDTH, _HEIGHT = 4.6, 2.8  # inches; about a phone's width, where text stays legible

_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same PNG everywhere
    "text.color": PALETTE["ink"],
    "text.parse_math": False,
    "axes.edgecolor": PALETTE["rule"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": PALETTE["rule"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.labelcolor": PALETTE["muted"],
    "lines.linewidth": 1.2,
    "path.simplify_threshold": 0.5,  # of a pixel, for curves of many log lines
    "svg.fonttype": "none",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A card with a drawing: `svg` goes into the page, `png` beside it."""

    kind: ClassVar = "chart"
    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    wide: bool


def curves(name: str, metric: Metric, scores: Sequence[Score]) -> Chart | None:
    """A metric over steps: thin lines for training, dots on lines for held-out data.

    Args:
        name: file name of the PNG, without its ending.
        metric: its `name` is the one in metrics.jsonl.
        scores: runs, and answers without one, which have the same value at all steps.

    Returns:
        None where no run has logged the metric twice.
    """
    train, held_out = (
        [score.log.series(kind, metric.name) for score in scores if score.log]
        for kind in ("train", "eval")
    )
    if all(len(series.steps) < 2 for series in (*train, *held_out)):
        return None
    constant = [x for x in scores if not x.log and metric.name in x.values]
    num_labels = len(constant) + sum(bool(series.steps) for series in held_out)

    def label(score: Score, value: float) -> str:
        return f"{formats.shorten(score.name, 42)} {value:{metric.form}}"

    def paint(axes: Axes) -> None:
        for score in constant:
            value = score.values[metric.name]
            style: Any = {"color": PALETTE[score.color], "dashes": (4, 3)}
            axes.axhline(value, label=label(score, value), **style)
        runs = [score for score in scores if score.log]
        for score, dashes, *both in zip(
            runs, itertools.cycle(_DASHES), train, held_out
        ):
            style = {"color": PALETTE[score.color], "linestyle": dashes}
            if score.reference and (band := score.reference.band(metric.name)).steps:
                axes.fill_between(*band, color=style["color"], alpha=0.2, linewidth=0)
            axes.plot(*both[0], alpha=0.6, **style)
            if both[1].steps:
                style |= {"marker": "o", "markersize": 4}
                axes.plot(*both[1], label=label(score, both[1].values[-1]), **style)
        axes.grid(axis="y")
        axes.set_xlabel("step")
        _number(axes.xaxis, ",")
        _number(axes.yaxis, metric.form)
        if num_labels:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1))

    caption = "Dots are held-out data, thin lines are training." if num_labels else ""
    size = (_WIDTH, _HEIGHT + 0.19 * num_labels)
    return _draw(name, metric.title, caption, paint, size)


def bars(name: str, metric: Metric, scores: Sequence[Score]) -> Chart | None:
    """A metric as horizontal bars with its intervals; None where no score has it."""
    shown = [score for score in scores if metric.name in score.values]
    if not shown:
        return None
    values = np.array([score.values[metric.name] for score in shown])
    ends = [
        score.interval(metric) or (score.values[metric.name],) * 2 for score in shown
    ]

    def paint(axes: Axes) -> None:
        drawn = axes.barh(
            range(len(shown)),
            values,
            0.5,
            color=[PALETTE[score.color] for score in shown],
            tick_label=[textwrap.fill(score.name, 24) for score in shown],
            # As lists: one bar's array makes matplotlib warn with NumPy before 2.4.
            xerr=np.abs(np.transpose(ends) - values).tolist(),
            ecolor=PALETTE["ink"],
            error_kw={"elinewidth": 0.9},
        )
        labels = [f"{value:{metric.form}}" for value in values]
        axes.bar_label(drawn, labels, padding=5, fontweight="bold")
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.tick_params("y", labelcolor=PALETTE["ink"])
        _number(axes.xaxis, metric.form)

    title = f"{metric.title} on the held-out examples"
    return _draw(name, title, "", paint, (_WIDTH, 0.5 + 0.46 * len(shown)))


def matrix(name: str, run: str, results: Mapping[str, Any]) -> Chart | None:
    """The confusion matrix of a run as a heat map; None where its task has none.

    Of more than `_MOST_CLASSES` classes, those with the most mistakes.

    Args:
        name: file name of the PNG, without its ending.
        run: name of the run.
        results: its results.json.
    """
    if "confusion" not in results:
        return None
    numbers, labels = np.array(results["confusion"]), results["labels"]
    shares = numbers / np.maximum(numbers.sum(axis=1, keepdims=True), 1)
    caption = "A row is a true class. The shade is the share of the row."
    if len(labels) > _MOST_CLASSES:
        mistakes = (numbers.sum(axis=0) + numbers.sum(axis=1)) - 2 * numbers.diagonal()
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES])
        numbers, shares = (x[np.ix_(shown, shown)] for x in (numbers, shares))
        caption += (
            f" The {_MOST_CLASSES} of {len(labels)} classes with the most mistakes."
        )
        labels = [labels[number] for number in shown]
    short = [formats.shorten(label, 18) for label in labels]

    def paint(axes: Axes) -> None:
        axes.pcolormesh(
            shares,
            cmap=ListedColormap([PALETTE["accent"]]),
            alpha=0.05 + 0.95 * shares,
            edgecolors=PALETTE["surface"],
            linewidth=1.5,
        )
        for (row, column), number in np.ndenumerate(numbers):
            color = PALETTE["on-accent" if shares[row, column] > 0.5 else "ink"]
            place = (column + 0.5, row + 0.5)
            style: Any = {"ha": "center", "va": "center", "fontsize": 8}
            axes.annotate(f"{number or ''}", place, color=color, **style)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.set_xticks(np.arange(len(short)) + 0.5, short, rotation=45, ha="right")
        axes.set_yticks(np.arange(len(short)) + 0.5, short)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")

    extent = 0.34 * len(short) + 0.9 + 0.07 * max(map(len, short))
    return _draw(
        name, f"Confusion: {run}", caption, paint, (max(_WIDTH, extent), extent)
    )


def reliability(name: str, run: str, results: Mapping[str, Any]) -> Chart | None:
    """The share of right answers by confidence; None where a task has none.

    Args:
        name: file name of the PNG, without its ending.
        run: name of the run.
        results: its results.json.
    """
    if "calibration" not in results:
        return None
    found = results["calibration"]
    counts, confidence, accuracy = np.array(found["bins"]).T

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=PALETTE["muted"], dashes=(4, 3))
        axes.plot(confidence, accuracy, color=PALETTE["accent"])
        areas = 8 + 160 * counts / counts.sum()
        axes.scatter(confidence, accuracy, areas, color=PALETTE["accent"])
        axes.grid(axis="y")
        axes.set_xlim(min(confidence) - 0.05, 1.03)
        axes.set_ylim(min(*accuracy, *confidence) - 0.05, 1.05)
        axes.set_xlabel("probability of the answer")
        axes.set_ylabel("share of right answers")
        _number(axes.xaxis, ".1%")
        _number(axes.yaxis, ".1%")

    caption = (
        "The larger a dot, the more examples. On the dashed line, probabilities are true. "
        f"Expected calibration error {found['ece']:.1%}; logits divided by the temperature "
        f"{found['temperature']:.2f}, which was fitted on these examples, would have "
        f"{found['ece_at_temperature']:.1%}."
    )
    return _draw(name, f"Calibration: {run}", caption, paint, (_WIDTH, _HEIGHT))


def _number(axis: Axis, form: str) -> None:
    """At most six round numbers on an axis, written like a value of this format."""

    def say(value: float, _: Any) -> str:
        if form.endswith("%"):
            return f"{100 * value:g}%"
        return f"{value:,g}" if form == "," else formats.compact(value)

    whole = form == ","
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axis.set_major_formatter(say)


def _draw(
    name: str,
    title: str,
    caption: str,
    paint: Callable[[Axes], None],
    size: tuple[float, float],
) -> Chart:
    """Runs `paint` on fresh axes of a width and height in inches and renders them."""
    title = formats.heading(title)
    style = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Labels may be in a script that the PNG's font lacks; the SVG uses the page's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure.add_subplot())
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True)
        # In the page the title is a heading, and in the PNG a part of the drawing.
        heading = formats.shorten(title, 52)
        figure.suptitle(heading, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        color, unnamed = PALETTE["surface"], {"Software": None}
        figure.savefig(png, format="png", dpi=200, facecolor=color, metadata=unnamed)
    return Chart(
        name=name,
        title=title,
        caption=caption,
        svg=_inline(svg.getvalue(), name),
        png=png.getvalue(),
        wide=size[0] > 1.3 * _WIDTH,
    )


def _inline(svg: str, name: str) -> str:
    """Makes matplotlib's SVG file a part of a page, which has the styles of its text."""
    root = ElementTree.fromstring(svg)

    def local(value: str) -> str:
        # Ids of several drawings meet in one page.
        value = re.sub(r"^#|(?<=url\()#", f"#{name}-", value)
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        for role, color in PALETTE.items():
            value = value.replace(color, f"var(--{role})")
        return value

    for element in root.iter():
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        element.tag = element.tag.split("}")[-1]
        given = {key.split("}")[-1]: value for key, value in element.items()}
        element.attrib = {key: local(value) for key, value in given.items()}
        if "id" in given:
            element.attrib["id"] = f"{name}-{given['id']}"
    return ElementTree.tostring(root, encoding="unicode")
