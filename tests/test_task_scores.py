"""Losses and scores of the tasks against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats
import sklearn.metrics

from bert_jax.batch import IGNORED_LABEL, ClassifyBatch
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.words import TaggedSentences
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.by_counts import one_hot
from bert_jax.train.tasks.classification import classification_scores
from bert_jax.train.tasks.label_scores import PER_LABEL, label_scores
from bert_jax.train.tasks.regression import correlation_scores, regression_scores
from bert_jax.train.tasks.task import Judged

# Sums of float64 in another order.
ROUNDING = 1e-12


def total(task, logits, batch):
    """The minimised loss, from the task's own weights and means."""
    means = task.loss(logits, batch)
    return sum(means[name].sum / w for name, w in task.loss_weights(batch).items())


def batch_of(labels, weights, mask=None):
    rows = len(weights)
    none = np.zeros((rows, 4), np.int32)
    return ClassifyBatch(
        none, none, none if mask is None else mask, labels, np.float32(weights)
    )


# Classification.


def test_a_class_costs_its_cross_entropy():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    batch = batch_of(labels, [1, 1, 1, 1, 0, 0])
    task = TASKS["classification"]
    expected_loss, expected_accuracy = reference.mean_loss(
        logits, labels, batch.weights
    )
    np.testing.assert_allclose(total(task, logits, batch), expected_loss, rtol=1e-6)
    accuracy = task.loss(logits, batch)["accuracy"].value()
    np.testing.assert_allclose(accuracy, expected_accuracy)


@pytest.mark.parametrize("seed", range(5))
def test_classification_scores_are_those_of_scikit_learn(seed):
    """Some classes do not occur, some are not predicted, and some are neither."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 5], 40).astype(np.int32)
    logits = rng.normal(size=(40, 7)).astype(np.float32)
    logits[:, [2, 3, 6]] = -9.0
    guess = logits.argmax(axis=1)
    found = classification_scores(logits, labels)
    metrics = sklearn.metrics
    assert found["accuracy"] == metrics.accuracy_score(labels, guess)
    macro = metrics.f1_score(labels, guess, average="macro", zero_division=0.0)
    assert found["macro_f1"] == pytest.approx(macro, rel=ROUNDING)
    matthews = metrics.matthews_corrcoef(labels, guess)
    assert found["matthews"] == pytest.approx(matthews, rel=ROUNDING)
    names = list("abcdefg")
    each = label_scores(*(one_hot(x, 7) for x in (labels, guess)), names)
    expected = metrics.precision_recall_fscore_support(
        labels, guess, labels=range(7), zero_division=0.0
    )
    assert [row["label"] for row in each] == names
    for name, column in zip(PER_LABEL, expected, strict=True):
        assert [row[name] for row in each] == pytest.approx(column.tolist())


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_scores_are_those_of_the_definitions(classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 200).astype(np.int32)
    logits = rng.normal(size=(200, classes)).astype(np.float32)
    logits[np.arange(200), labels] += 1.0
    found = classification_scores(logits, labels)
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, logits.argmax(1)), 1)
    hits, truth, guess = table.diagonal(), table.sum(1), table.sum(0)
    each_f1 = 2 * hits / (truth + guess)
    assert found["accuracy"] == pytest.approx(hits.sum() / 200, rel=ROUNDING)
    assert found["macro_f1"] == pytest.approx(each_f1.mean(), rel=ROUNDING)
    # The correlation of indicators of all classes, as one long vector a class.
    cov = 200 * hits.sum() - truth @ guess
    norm = np.sqrt((200**2 - guess @ guess) * (200**2 - truth @ truth))
    assert found["matthews"] == pytest.approx(cov / norm, rel=ROUNDING)
    assert ("f1" in found) == (classes == 2)
    if classes == 2:
        assert found["f1"] == pytest.approx(each_f1[1], rel=ROUNDING)
    probs = np.exp(logits.astype(np.float64))
    probs /= probs.sum(1, keepdims=True)
    loss = -np.log(probs[np.arange(200), labels]).mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-6)  # float32 within


def test_a_constant_answer_has_no_correlation():
    labels = np.array([0, 1, 1, 1], np.int32)
    for best in (0, 1):
        logits = np.eye(2, dtype=np.float32)[[best] * 4]
        found = classification_scores(logits, labels)
        assert found["matthews"] == 0.0
        assert found["f1"] == pytest.approx((0.0, 6 / 7)[best])
    constant = regression_scores(np.float32([2, 2, 2]), np.float32([1, 2, 4]))
    assert (constant["pearson"], constant["spearman"]) == (0.0, 0.0)
    assert constant["mse"] == pytest.approx(5 / 3)


# Regression.


def test_a_score_costs_the_square_of_its_error():
    batch = batch_of(np.float32([1.0, 4.0, 100.0]), [1, 1, 0])
    logits = jnp.array([[2.0], [1.0], [0.0]])
    loss = total(TASKS["regression"], logits, batch)
    assert loss == pytest.approx((1.0 + 9.0) / 2)


def test_regression_scores_are_those_of_scipy():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 11, 300).astype(np.float32) / 2  # with ties
    predictions = (labels + rng.normal(size=300)).astype(np.float32).round(1)
    found = regression_scores(predictions, labels)
    x, y = predictions.astype(np.float64), labels.astype(np.float64)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(x, y)[0], ROUNDING)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y)[0], ROUNDING)
    error = sklearn.metrics.mean_squared_error(y, x)
    assert found["mse"] == found["loss"] == pytest.approx(error, ROUNDING)
    assert correlation_scores(x, -x)["pearson"] == pytest.approx(-1.0, ROUNDING)


# Tokens.


def test_only_labelled_tokens_of_rows_that_count_cost_anything():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 7, 4)).astype(np.float32)
    labels = rng.integers(0, 4, (3, 7)).astype(np.int32)
    labels[0, 2:], labels[1, ::2] = IGNORED_LABEL, IGNORED_LABEL
    batch = batch_of(labels, [1, 1, 0])
    task = TASKS["tokens"]
    counted = (labels != IGNORED_LABEL) & (batch.weights[:, None] > 0)
    expected = reference.mean_loss(
        logits, np.where(labels < 0, 0, labels), counted.astype(np.float32)
    )
    np.testing.assert_allclose(total(task, logits, batch), expected[0], rtol=1e-6)
    accuracy = task.loss(logits, batch)["accuracy"].value()
    np.testing.assert_allclose(accuracy, expected[1])
    grads = jax.grad(lambda x: total(task, x, batch))(logits)
    np.testing.assert_array_equal(np.asarray(grads).any(-1), counted)


def test_the_table_of_entities_is_that_of_all_words():
    words = (("a", "b", "c"), ("d",))
    tags = (("B-X", "I-X", "O"), ("B-Y",))
    outputs = ("B-X", "B-Y", "I-X", "O")
    labels = np.full((2, 5), IGNORED_LABEL, np.int32)
    word = np.full((2, 5), -1, np.int32)
    word[0, 1:4], word[1, 1] = [0, 1, 2], 0
    labels[word >= 0] = [0, 2, 3, 1]
    mask = np.ones((2, 5), np.int32)
    rows = EncodedExamples(mask, mask, mask, labels, np.arange(2, dtype=np.int32), word)
    logits = np.zeros((2, 5, 4), np.float32)
    for place, tag in (((0, 1), 0), ((0, 2), 2), ((0, 3), 1), ((1, 1), 1)):
        logits[(*place, tag)] = 5.0  # "c" is said to be B-Y
    examples = TaggedSentences(words, tags)
    task = TASKS["tokens"]
    judged = Judged(logits, rows, examples, outputs)
    scores = task.scores(judged)
    assert (scores["precision"], scores["recall"]) == (pytest.approx(2 / 3), 1.0)
    table = task.details(judged)["per_label"]
    assert [(x["label"], x["precision"], x["support"]) for x in table] == [
        ("X", 1.0, 1),
        ("Y", 0.5, 1),
    ]
    losses = task.example_losses(judged)
    right = -np.log(np.exp(5) / (np.exp(5) + 3))
    assert losses == pytest.approx([right + 5 / 3, right])
    assert list(examples.shown()) == [("a b c", "X 'a b'"), ("d", "Y 'd'")]
    found = task.predictions(judged)
    share = np.exp(5) / (np.exp(5) + 3)
    assert found[0]["entities"][0] == {
        "type": "X",
        "text": "a b",
        "start": 0,
        "end": 3,
        "probability": pytest.approx(share**2),
    }
    assert found[0]["probabilities"] == pytest.approx([share] * 3)
    assert task.say(found[0], 3) == "X 'a b' 96.1%, Y 'c' 98.0%"


def test_parts_of_speech_are_said_word_by_word():
    entities = [
        {"type": "NOUN", "text": "Oslo", "probability": 0.5},
        {"type": "VERB", "text": "is", "probability": 0.5},
    ]
    said = TASKS["tokens"].say({"tags": ["NOUN", "VERB"], "entities": entities}, 3)
    assert said == "Oslo/NOUN is/VERB"
    assert TASKS["tokens"].say({"tags": ["O"], "entities": []}, 3) == "no entity"


# Spans.


@pytest.fixture
def spans():
    """(logits, batch): rows of 8, 8 and 5 real tokens; the last one does not count."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3, 8, 2)).astype(np.float32)
    mask = (np.arange(8) < np.array([[8], [5], [8]])).astype(np.int32)
    labels = np.array([[2, 5], [0, 4], [1, 1]], np.int32)
    return logits, batch_of(labels, [1, 1, 0], mask)


def test_a_span_costs_the_mean_of_its_ends_over_the_real_tokens(spans):
    logits, batch = spans
    means = []
    for end in range(2):
        for row in range(2):
            real = batch.input_mask[row] > 0
            at = batch.labels[[row], end]
            found = reference.mean_loss(logits[row, real, end][None], at, np.ones(1))
            means.append(found[0])
    loss = total(TASKS["spans"], logits, batch)
    np.testing.assert_allclose(loss, np.mean(means), rtol=1e-6)
    grads = jax.grad(lambda x: total(TASKS["spans"], x, batch))(logits)
    assert not np.asarray(grads)[batch.input_mask == 0].any()
    assert not np.asarray(grads)[2].any()


def test_padding_further_changes_no_span_loss(spans):
    logits, batch = spans
    noise = np.full((3, 4, 2), 50.0, np.float32)
    wide = batch._replace(input_mask=np.pad(batch.input_mask, ((0, 0), (0, 4))))
    wider = total(TASKS["spans"], np.concatenate([logits, noise], 1), wide)
    np.testing.assert_allclose(wider, total(TASKS["spans"], logits, batch), rtol=1e-6)
