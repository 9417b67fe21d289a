"""Histograms of lengths in tokens, each bin twice as wide as the one before."""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.inputs import Record

_MAX_POWER = 64
_NUM_LABELS = 8  # that fit below the axis

Bins = Sequence[tuple[int, int]]


def length_bins(corpus: Record, name: str) -> Bins | None:
    """A histogram of the audit.

    Args:
        corpus: as `data.summary.summarize` makes it.
        name: `documents_by_length` or `sentences_by_length`.

    Returns:
        (least, number) each: so many have from `least` up to twice as many tokens.
        None where nothing was measured.

    Raises:
        ValueError: the lengths do not double from bin to bin.
    """
    table = corpus.table("audit", name)
    if table is None or not table.values:
        return None
    counts = {least: table.count(least) for least in table.values}
    found = ((1 << power, counts.get(str(1 << power))) for power in range(_MAX_POWER))
    bins = [(least, number) for least, number in found if number is not None]
    if len(bins) != len(counts) or bins[-1][0] != bins[0][0] << (len(bins) - 1):
        raise ValueError(
            f"{table.source} has the bins {', '.join(counts)}; expected powers of two "
            "without a gap, each with a number. Write it again with this version, or "
            "mend the file."
        )
    return bins


def length_chart(
    bins: Bins | None, total: int | None, *, name: str, title: str, noun: str
) -> Chart | None:
    """Bars for the bins; None where none of them holds anything.

    Args:
        bins: as `length_bins` gives them.
        total: tokens in all, for the mean.
        name: of the PNG file.
        title: heading of the chart.
        noun: what has these lengths, in the singular.
    """
    number = sum(count for _, count in bins or ())
    if bins is None or not number:
        return None
    edges = [least for least, _ in bins] + [2 * bins[-1][0]]
    stride = -(-len(edges) // _NUM_LABELS)

    def paint(axes: Axes) -> None:
        axes.bar(
            range(len(bins)),
            [count for _, count in bins],
            width=0.94,
            align="edge",
            color=PALETTE["accent"],
        )
        shown = range(0, len(edges), stride)
        axes.set_xticks(shown, [formats.count(edges[place]) for place in shown])
        axes.set_xlim(-0.1, len(bins) + 0.1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"tokens in a {noun}")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=charts.TICKS, integer=True))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: formats.compact_tick(y))
        )

    return charts.draw(name, title, _caption(bins, number, total, noun), paint)


def _caption(bins: Bins, number: int, total: int | None, noun: str) -> str:
    used = [least for least, count in bins if count]
    counts = itertools.accumulate(count for _, count in bins)
    half = (bins[place][0] for place, n in enumerate(counts) if 2 * n >= number)
    median = next(half)
    caption = f"{formats.plural(number, noun)}, of "
    if total is not None:
        caption += f"{formats.decimal(total / number, 1)} tokens in the mean and "
    caption += f"{_span(median)} in the median"
    if used[-1] > median:
        caption += f"; the longest have {_span(used[-1])}"
    return f"{caption}. A bar holds lengths up to twice its shortest."


def _span(least: int) -> str:
    return "1" if least == 1 else f"{least:,} to {2 * least - 1:,}"
