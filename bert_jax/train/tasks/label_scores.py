"""Precision, recall and F1 of each label, as `per_label` in results.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np

PER_LABEL = ("precision", "recall", "f1", "support")
"""Scores of one label; support is how often it occurs."""


def label_scores(
    truth: np.ndarray, found: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """One dict for each label: its name as `label`, and its `PER_LABEL`.

    Args:
        truth: int [examples], numbers of classes; or bool [examples, labels].
        found: predictions of the same form.
        names: of the labels.
    """
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        truth, found, labels=range(len(names)), zero_division=0.0
    )
    return [
        dict(zip(("label", *PER_LABEL), [name, *row], strict=True))
        for name, row in zip(names, np.transpose(columns).tolist(), strict=True)
    ]
