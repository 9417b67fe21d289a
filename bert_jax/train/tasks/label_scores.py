"""Precision, recall and F1 of each label, as `per_label` in results.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.train.tasks.by_counts import Tallies, ratio, tallies

PER_LABEL = ("precision", "recall", "f1", "support")
"""Scores of one label; support is how often it occurs."""


def label_scores(
    truth: np.ndarray, found: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """One dict for each label: its name as `label`, and its `PER_LABEL`.

    Args:
        truth, found: bool [examples, labels].
        names: of the labels.
    """
    of = Tallies(*(x.sum(axis=0) for x in tallies(truth, found)))
    columns = (ratio(of.right, of.said), ratio(of.right, of.true), of.f1(), of.true)
    return [
        {"label": name, **dict(zip(PER_LABEL, row, strict=True))}
        for name, row in zip(names, np.transpose(columns).tolist(), strict=True)
    ]
