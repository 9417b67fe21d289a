"""Confusion matrices as heat maps."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.runs import Run

_CELL = 0.34  # inches
_LABEL_LENGTH = 18


def confusion_chart(run: Run, name: str, title: str) -> Chart | None:
    """The confusion matrix of a run, rows the truth; None where its task has none."""
    matrix = run.results.get("confusion")
    if not matrix:
        return None
    labels = run.results["labels"]
    short = [formats.shorten(label, _LABEL_LENGTH) for label in labels]
    size = len(labels)

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        for row, counts in enumerate(matrix):
            total = sum(counts)
            for column, number in enumerate(counts):
                share = number / total if total else 0.0
                axes.add_patch(
                    Rectangle(
                        (column - 0.47, row - 0.47),
                        0.94,
                        0.94,
                        facecolor=PALETTE["accent"],
                        alpha=0.05 + 0.95 * share,
                        linewidth=0,
                    )
                )
                if number:
                    axes.annotate(
                        f"{number}",
                        (column, row),
                        ha="center",
                        va="center",
                        fontsize=8.5 if number < 1_000 else 7.0,
                        color=PALETTE["on-accent" if share > 0.5 else "ink"],
                    )
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(size), short, rotation=45, ha="right")
        axes.set_yticks(range(size), short)
        axes.tick_params(length=0, pad=2)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")

    margin = 0.9 + 0.07 * max(map(len, short))
    width = max(charts.WIDTH, size * _CELL + margin)
    height = size * _CELL + margin
    caption = _caption(labels, matrix)
    return charts.draw(name, title, caption, paint, size=(width, height))


def _caption(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    text = "Shade is the share of a row, the number its examples"
    recalls = {
        label: row[i] / sum(row)
        for i, (label, row) in enumerate(zip(labels, matrix, strict=True))
        if sum(row)
    }
    best, worst = (f(recalls, key=lambda x: recalls[x], default="") for f in (max, min))
    if best != worst:
        text += (
            f"; found most often is “{best}” ({recalls[best]:.0%}), least often "
            f"“{worst}” ({recalls[worst]:.0%})"
        )
    mistakes = [
        (number, truth, guess)
        for truth, row in zip(labels, matrix, strict=True)
        for guess, number in zip(labels, row, strict=True)
        if truth != guess
    ]
    number, truth, guess = max(mistakes, key=lambda x: x[0], default=(0, "", ""))
    if not number:
        return f"{text}. No example is classified wrongly."
    return (
        f"{text}. The most frequent mistake takes “{truth}” for “{guess}” "
        f"({formats.plural(number, 'time')})."
    )
