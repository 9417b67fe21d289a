"""Draws the charts: one figure becomes an inline SVG and a PNG.

Colours are roles. In the PNG they are the light palette; in the SVG each becomes a
CSS variable of the page, so that the same drawing serves light and dark.
"""

import dataclasses
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bert_jax.report import formats

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
TICKS = [1, 2, 2.5, 5, 10]  # of an axis, times a power of ten
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
    """A card with a drawing: `svg` goes into the page, `png` beside it."""

    kind: ClassVar = "chart"
    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    wide: bool


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
