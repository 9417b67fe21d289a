"""Draws the charts: one figure becomes an inline SVG and a PNG.

Colours are roles. In the PNG they are the light palette; in the SVG each becomes a
CSS variable of the page, so that the same drawing serves light and dark.
"""

import dataclasses
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bert_jax.report import formats
from bert_jax.report.inputs import Series

# Every value differs, because the SVG finds a role by its value.
PALETTE = {
    "ink": "#1f2430",
    "muted": "#6a7180",
    "rule": "#e3e4e8",
    "surface": "#fffffe",
    "accent": "#2a5db0",
    "other": "#b8722c",
    "plain": "#a3a9b5",
    "on-accent": "#fefefe",
}
MAX_POINTS = 600
_LABEL = 42  # characters that fit above the axes
TICKS = [1, 2, 2.5, 5, 10]
WIDTH, HEIGHT = 4.6, 2.8  # inches; about a phone's width, where text stays legible

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
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": PALETTE["rule"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.color": PALETTE["rule"],
    "ytick.labelcolor": PALETTE["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.labelcolor": PALETTE["muted"],
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A finished chart: `svg` goes into the page, `png` beside it."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    wide: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One curve of a chart; dots on a line for the few points of an evaluation."""

    label: str
    data: Series
    color: str
    dots: bool = False
    dashes: str = "-"


def draw(
    name: str,
    title: str,
    caption: str,
    paint: Callable[[Axes], None],
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Chart:
    """Runs `paint` on fresh axes and renders them.

    Args:
        name: of the PNG file, without its ending; unique within a report.
        title: heading of the chart; drawn into the PNG, where no page gives it one.
        caption: one sentence on what one sees.
        paint: draws the data.
        size: width and height in inches.
    """
    style = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Labels may be in a script that the PNG's font lacks; the SVG uses the page's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure.add_subplot())
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True)
        figure.suptitle(
            formats.shorten(title, 52),
            x=0.01,
            ha="left",
            fontsize=10.5,
            fontweight="bold",
        )
        figure.savefig(
            png,
            format="png",
            dpi=200,
            facecolor=PALETTE["surface"],
            metadata={"Software": None},
        )
    return Chart(
        name=name,
        title=title,
        caption=caption,
        svg=_inline(svg.getvalue(), name, size[0]),
        png=png.getvalue(),
        wide=size[0] > 1.3 * WIDTH,
    )


def draw_curves(
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    *,
    tick: Callable[[float], str],
    reference: tuple[float, str] | None = None,
    from_zero: bool = False,
) -> Chart:
    """Curves over steps.

    Args:
        name: of the PNG file.
        title: heading of the chart.
        caption: one sentence on what one sees.
        lines: the curves; those with a label are named above the axes.
        tick: writes a value of the vertical axis.
        reference: value and name of a dashed line to compare with.
        from_zero: whether the vertical axis must begin at 0.
    """

    labels = [formats.shorten(line.label, _LABEL) for line in lines if line.label]
    labels += [] if reference is None else [reference[1]]
    # Names that do not fit beside each other stand in rows, and the drawing grows.
    columns = len(labels) if sum(map(len, labels)) + 5 * len(labels) <= 51 else 1
    faint = any(line.dots for line in lines)

    def paint(axes: Axes) -> None:
        for line in lines:
            data = thin(line.data)
            if line.dots:
                axes.plot(
                    data.steps,
                    data.values,
                    line.dashes,
                    color=PALETTE[line.color],
                    linewidth=1.4,
                    marker="o",
                    markersize=4.2,
                    markeredgewidth=0,
                    label=formats.shorten(line.label, _LABEL),
                    zorder=3,
                )
            else:
                axes.plot(
                    data.steps,
                    data.values,
                    line.dashes,
                    color=PALETTE[line.color],
                    linewidth=0.9 if faint else 1.2,
                    alpha=0.55 if faint else 1.0,
                    label=formats.shorten(line.label, _LABEL),
                )
        axes.margins(x=0.02)
        if reference is not None:
            # Named in the legend: beside the line, words would meet a curve near it.
            axes.axhline(
                reference[0],
                color=PALETTE["ink"],
                linewidth=1.0,
                dashes=(4, 3),
                alpha=0.7,
                label=reference[1],
            )
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICKS))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=TICKS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: tick(y)))
        if len(labels) > 1:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(-0.01, 1.0),
                ncols=columns,
                borderaxespad=0.2,
                handlelength=1.4,
                columnspacing=1.2,
            )

    rows = len(labels) if columns == 1 else 1
    height = HEIGHT + 0.19 * max(0, rows - 1)
    return draw(name, title, caption, paint, size=(WIDTH, height))


def thin(data: Series) -> Series:
    """At most `MAX_POINTS` points: means over equally many neighbours."""
    width = bin_width(data)
    if width == 1:
        return data
    steps, values = [], []
    for start in range(0, len(data.steps), width):
        chunk = data.values[start : start + width]
        values.append(sum(chunk) / len(chunk))
        steps.append(data.steps[min(start + width, len(data.steps)) - 1])
    return Series(steps, values, data.num_not_finite)


def bin_width(data: Series) -> int:
    """How many logged values one drawn point stands for."""
    return max(1, -(-len(data.steps) // MAX_POINTS))


def percent_tick(value: float) -> str:
    """Labels an axis of shares."""
    return formats.percent(value, 0)


def _inline(svg: str, name: str, width: float) -> str:
    """Makes matplotlib's SVG file a part of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Would style the whole page; the template says the same for charts alone.
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*</defs>", "", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    # Ids of several drawings meet in one page; unreferenced ones only add weight.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))

    def tag(match: re.Match[str]) -> str:
        text = re.sub(
            r' id="([^"]*)"',
            lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "",
            match[0],
        )
        text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        for role, color in PALETTE.items():
            text = text.replace(color, f"var(--{role})")
        return text

    # Only inside tags: what a label says is not ours to change.
    svg = re.sub(r"<[^>]+>", tag, svg)
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    # A narrow screen scrolls a wide drawing instead of shrinking it out of sight.
    style = f"min-width:{0.7 * 72 * width:.0f}px"
    return f'{head} style="{style}" role="img" aria-labelledby="{name}-title">{body}'
