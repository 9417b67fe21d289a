"""Draws the pictures of the pages: `python docs/curves/draw.py` writes the SVG files beside it.

The .csv files hold what runs logged (`collect.py`). `reading_curves.md` says which runs
these are, and on which machine and day they ran.
"""

import csv
import pathlib
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bert_jax"  # the same file on every day
matplotlib.rcParams["svg.fonttype"] = "none"

HERE = pathlib.Path(__file__).parent
# Entropy of single words, in nats: the loss of a model that does not look around.
UNIGRAMS = {"quickstart": 6.311, "bert_tiny": 7.03}


def curve(run: str, kind: str, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a figure, as far as the run has logged it."""
    with (HERE / f"{run}.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["kind"] == kind and row.get(name)
        ]
    return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]


def draw_loss(axes: Any, run: str, title: str) -> None:
    """The MLM loss of a run, of training and held out, beside the unigrams' entropy."""
    axes.plot(*curve(run, "train", "mlm_loss"), color="#9ecae1", label="training")
    axes.plot(*curve(run, "eval", "mlm_loss"), "o-", color="#08519c", label="held out")
    steps, low = curve(run, "eval", "mlm_loss_low")
    if steps:
        high = curve(run, "eval", "mlm_loss_high")[1]
        shade = {"color": "#08519c", "alpha": 0.25, "linewidth": 0}
        axes.fill_between(steps, low, high, **shade, label="range of the seeds")
    axes.axhline(UNIGRAMS[run], color="#888888", linestyle="--", label="single words")
    axes.set(title=title, xlabel="step", ylabel="MLM loss (nats)")
    axes.locator_params(axis="x", nbins=5)
    axes.legend(frameon=False)


def save(figure: Any, name: str) -> None:
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Writes quickstart.svg and bert_tiny.svg."""
    figure, axes = plt.subplots(figsize=(6.4, 2.8))
    draw_loss(
        axes, "quickstart", "bert-jax quickstart: 0.9 M parameters, 250 s of two cores"
    )
    save(figure, "quickstart")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2))
    draw_loss(left, "bert_tiny", "BERT-tiny on Wikipedia, 40 minutes")
    for kind, color, label in (
        ("train", "#9ecae1", "training"),
        ("eval", "#08519c", "held out"),
    ):
        right.plot(*curve("bert_tiny", kind, "nsp_accuracy"), color=color, label=label)
    right.axhline(0.591, color="#888888", linestyle="--", label="majority")
    right.set(title="next-sentence prediction", xlabel="step", ylabel="accuracy")
    right.locator_params(axis="x", nbins=5)
    right.legend(frameon=False)
    save(figure, "bert_tiny")


if __name__ == "__main__":
    main()
