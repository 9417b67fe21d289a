"""Confusion matrices as heat maps."""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.inputs import Run

_CELL = 0.34  # inches
_LABEL_LENGTH = 18


def confusion_chart(run: Run, name: str, title: str) -> Chart | None:
    """The confusion matrix of a run, rows the truth; None where there is none.

    Raises:
        ValueError: the matrix is not one row and column of counts for each label.
    """
    labels = run.results.items("labels")
    matrix = run.results.items("confusion")
    if labels is None or matrix is None:
        return None
    _check(run.results.source, labels, matrix)
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
                    role = "on-accent" if share > 0.5 else "ink"
                    axes.annotate(
                        f"{number}",
                        (column, row),
                        ha="center",
                        va="center",
                        fontsize=8.5 if number < 1_000 else 7.0,
                        color=PALETTE[role],
                    )
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(size), short, rotation=45, ha="right")
        axes.set_yticks(range(size), short)
        axes.tick_params(length=0, pad=2)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")

    margin = 0.9 + 0.07 * max(map(len, short), default=0)
    width = max(charts.WIDTH, size * _CELL + margin)
    return charts.draw(
        name,
        title,
        _caption(labels, matrix),
        paint,
        size=(width, size * _CELL + margin),
    )


def _caption(labels: list[str], matrix: list[list[int]]) -> str:
    recalls = [
        (row[i] / sum(row), labels[i]) for i, row in enumerate(matrix) if sum(row)
    ]
    if not recalls:
        return "The matrix is empty."
    (low, worst), (high, best) = (
        min(recalls, key=lambda pair: pair[0]),
        max(recalls, key=lambda pair: pair[0]),
    )
    caption = "Shade is the share of a row, the number its texts"
    if worst != best:
        caption += (
            f"; found most often is “{best}” ({formats.percent(high, 0)}), least often "
            f"“{worst}” ({formats.percent(low, 0)})"
        )
    mistakes = [
        (number, labels[i], labels[j])
        for i, row in enumerate(matrix)
        for j, number in enumerate(row)
        if i != j and number
    ]
    if not mistakes:
        return f"{caption}, and no text is classified wrongly."
    number, truth, guess = max(mistakes, key=lambda found: found[0])
    return (
        f"{caption}, and the most frequent mistake takes “{truth}” for “{guess}” "
        f"({formats.plural(number, 'time')})."
    )


def _check(source: str, labels: list[object], matrix: list[object]) -> None:
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"{source}: labels={labels!r}, expected a list of names. Evaluate the "
            "run again with this version."
        )
    for row in matrix:
        if (
            len(matrix) != len(labels)
            or not isinstance(row, list)
            or len(row) != len(labels)
            or not all(type(number) is int and number >= 0 for number in row)
        ):
            raise ValueError(
                f"{source}: confusion has {len(matrix)} rows, one of them {row!r}; "
                f"expected {len(labels)} rows of {len(labels)} counts, as there are "
                "labels. Evaluate the run again with this version."
            )
