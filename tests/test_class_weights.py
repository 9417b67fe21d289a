"""Class weights and label smoothing of classification, and tasks that have neither."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.class_weights import class_weights, say_weights

NAMES = ("no", "yes", "maybe")


def test_balanced_weights_are_those_of_scikit_learn():
    numbers = np.array([0] * 12 + [1] * 3 + [2])
    found = class_weights(("balanced",), numbers, NAMES)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=numbers)
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32
    assert found[numbers].mean() == pytest.approx(1.0, rel=1e-6)


def test_given_weights_are_those_of_their_class():
    cfg = FinetuneConfig(class_weights=("yes=2.5", "no=1e-1"))
    task = TASKS["classification"].configured(cfg)
    examples = LabelledTexts((("t",),) * 3, ("yes", "maybe", "no"))
    weights = task.example_weights(examples, NAMES)
    np.testing.assert_array_equal(weights, np.float32([2.5, 1.0, 0.1]))
    assert say_weights(weights, examples.labels) == "maybe 1, no 0.1, yes 2.5"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["yes"], "'yes'; expected the word balanced"),
        (["yes=0"], "weight from 1e-06 to 1e\\+06"),
        (["yes=1e300"], "weight from 1e-06"),  # no float32
        (["yes=many"], "weight from 1e-06"),
        (["Yes=2"], "'Yes', which is no class of the training file"),
        (["yes=2", "no=3", "yes=5"], "gives two weights to 'yes'"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        class_weights(given, np.array([0, 1, 2]), NAMES)


def test_the_smoothed_weighted_loss_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (8, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 8).astype(np.int32)
    by_class = np.float32([0.5, 2.0, 1.0])
    none = np.zeros((8, 4), np.int32)
    batch = ClassifyBatch(none, none, none, labels, by_class[labels])
    plain, smooth = (
        TASKS["classification"].configured(FinetuneConfig(label_smoothing=share))
        for share in (0.0, 0.1)
    )
    found = plain.loss(logits, batch)["loss"].value()
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels).long(), torch.tensor(by_class)
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-6)
    # With equal weights: torch weighs the smoothed part by class, not by example.
    even = batch._replace(weights=np.ones(8, np.float32))
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels).long(), label_smoothing=0.1
    )
    found = smooth.loss(logits, even)
    np.testing.assert_allclose(found["loss"].value(), theirs, rtol=1e-6)
    hits = (logits.argmax(axis=1) == labels).mean()
    for batch in (batch, even):  # noqa: B020
        accuracy = smooth.loss(logits, batch)["accuracy"].value()
        np.testing.assert_allclose(accuracy, hits)


@pytest.mark.parametrize(
    ("task", "setting"),
    [
        ("regression", {"class_weights": ("balanced",)}),
        ("multilabel", {"label_smoothing": 0.1}),
        ("tokens", {"long_texts": "windows"}),
        ("spans", {"class_weights": ("balanced",)}),
    ],
)
def test_a_setting_that_a_task_would_ignore_is_refused(task, setting):
    with pytest.raises(ValueError, match=f"would be ignored: --task {task}"):
        TASKS[task].configured(FinetuneConfig(**setting))
