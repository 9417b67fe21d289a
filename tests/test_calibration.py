"""Calibration of probabilities, and the list of the hardest examples."""

import numpy as np
import pytest

from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.train.hardest import hardest
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.calibration import calibration
from bert_jax.train.tasks.task import Judged


@pytest.fixture
def honest():
    """40,000 draws of labels from the probabilities that the logits stand for."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (40_000, 3)).astype(np.float32)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = rng.random((len(logits), 1)) > probs.cumsum(axis=1)
    return logits, np.minimum(drawn.sum(axis=1), 2).astype(np.int32)


def test_true_probabilities_are_calibrated(honest):
    found = calibration(*honest)
    # The standard error of the accuracy in a bin of a fifteenth of them is 0.01.
    assert found["ece"] < 0.01
    assert found["temperature"] == pytest.approx(1.0, abs=0.03)
    assert sum(count for count, _, _ in found["bins"]) == 40_000


def test_the_temperature_undoes_a_scale(honest):
    logits, labels = honest
    found = calibration(3 * logits, labels)
    assert found["temperature"] == pytest.approx(3.0, abs=0.1)
    assert found["ece"] > 0.1 > 0.01 > found["ece_at_temperature"]


def test_bins_are_counts_confidences_and_accuracies():
    # Probabilities 0.5 | 0.5 (the first class is said) and nearly 1.
    logits = np.array([[0, 0], [0, 0], [0, 50]], np.float32)
    found = calibration(logits, np.array([0, 1, 1], np.int32))
    assert found["bins"] == [[2, 0.5, 0.5], [1, pytest.approx(1.0), 1.0]]
    assert found["ece"] == pytest.approx(0.0)


def rows_of(labels):
    ids = np.ones((len(labels), 4), np.int32)
    return EncodedExamples(
        ids, ids, ids, np.asarray(labels), np.arange(len(labels), dtype=np.int32)
    )


def test_the_hardest_examples_come_first():
    texts = LabelledTexts((("good",), ("x" * 500,), ("bad",)), ("1", "1", "0"))
    logits = np.array([[-3, 3], [4, -4], [1, 0]], np.float32)
    found = hardest(
        TASKS["classification"],
        Judged(logits, rows_of([1, 1, 0]), texts, ("0", "1")),
    )
    assert [x["number"] for x in found] == [2, 3, 1]
    assert found[0]["text"] == "x" * 400 + "…"
    assert (found[0]["truth"], found[0]["said"]) == ("1", "0 100.0%  1 0.0%")
    assert found[0]["loss"] == pytest.approx(8.0, abs=1e-3)


def test_a_regression_ranks_by_its_error():
    texts = LabelledTexts((("a", "b"), ("c", "d")), ("1.5", "4"))
    logits = np.array([[1.0], [1.0]], np.float32)
    encoded = rows_of(np.float32([1.5, 4.0]))
    found = hardest(TASKS["regression"], Judged(logits, encoded, texts, ("score",)))
    assert [x["loss"] for x in found] == [9.0, 0.25]
    assert found[0]["text"] == "c\nd"


def test_scores_of_each_label_are_scikit_learns():
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 2]]
    texts = LabelledTexts((("t",),) * 5, ("a",) * 5)
    details = TASKS["classification"].details(
        Judged(logits, rows_of([0, 1, 1, 2, 0]), texts, ("a", "b", "c"))
    )
    assert details["per_label"] == [
        {"label": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2.0},
        {
            "label": "b",
            "precision": 1.0,
            "recall": 0.5,
            "f1": pytest.approx(2 / 3),
            "support": 2.0,
        },
        {
            "label": "c",
            "precision": 0.5,
            "recall": 1.0,
            "f1": pytest.approx(2 / 3),
            "support": 1.0,
        },
    ]
    assert details["confusion"] == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]
