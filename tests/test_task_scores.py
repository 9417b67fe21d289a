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
from bert_jax.data.labelled.questions import Answer, Questions
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.classification import classification_scores
from bert_jax.train.tasks.regression import pearson, regression_scores
from bert_jax.train.tasks.spans import exact_match, word_f1
from bert_jax.train.tasks.tokens import entities, entity_scores

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
    assert pearson(x, -x) == pytest.approx(-1.0, ROUNDING)


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


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O", [("PER", 1, 2)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # IOB1
        ("I-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("I-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        (
            "S-LOC B-PER I-PER E-PER I-PER",
            [("LOC", 0, 0), ("PER", 1, 3), ("PER", 4, 4)],
        ),
        ("U-LOC B-PER L-PER", [("LOC", 0, 0), ("PER", 1, 2)]),
        ("B-creative-work I-creative-work", [("creative-work", 0, 1)]),
        ("PER PER O", [("PER", 0, 1)]),
        ("O O", []),
    ],
)
def test_entities_are_those_of_conlleval(tags, expected):
    assert list(entities(tags.split())) == expected


def test_an_entity_counts_where_type_and_ends_are_right():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["O", "B-PER"]]
    scores = entity_scores(truth, found)  # one of three, three said
    assert scores == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3}, rel=ROUNDING
    )
    nothing = entity_scores(truth, [["O"] * 4, ["O"] * 2])
    assert nothing == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


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


@pytest.mark.parametrize(
    ("found", "answer", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0, 1.0),
        ("in Paris", "Paris", 0.0, 2 / 3),
        ("a b b", "b c", 0.0, 2 / 4),  # "a" is an article
        ("", "", 1.0, 1.0),
        ("x", "", 0.0, 0.0),
        ("London", "Paris", 0.0, 0.0),
    ],
)
def test_answers_are_compared_as_the_official_script_does(found, answer, exact, f1):
    assert exact_match(found, answer) == exact
    assert word_f1(found, answer) == pytest.approx(f1, rel=ROUNDING)


def span_case(ends, answers):
    """(logits, rows, questions): one passage in one row, its best ends as given."""
    passage = "Oxygen was found by Scheele in 1772."
    words = 8  # seven words and the point
    word = np.full((1, 12), -1, np.int32)
    word[0, 3 : 3 + words] = np.arange(words)
    logits = np.zeros((1, 12, 2), np.float32)
    for place, end, value in ends:
        logits[0, place, end] = value
    mask = np.ones((1, 12), np.int32)
    labels = np.zeros((1, 2), np.int32)
    rows = EncodedExamples(mask, mask, mask, labels, np.zeros(1, np.int32), word)
    return logits, rows, Questions(("Who?",), (passage,), (answers,))


def test_the_best_span_is_read_from_the_passage():
    answers = (Answer("Scheele", 20), Answer("Scheele in 1772", 20))
    # The best end lies before the best start; the best pair in order is the name alone.
    case = span_case([(7, 0, 5.0), (7, 1, 3.0), (4, 1, 4.0)], answers)
    scores = TASKS["spans"].scores(*case, ("start", "end"))
    assert (scores["exact_match"], scores["f1"]) == (1.0, 1.0)
    [said] = TASKS["spans"].predictions(*case, ("start", "end"))
    assert said == {"answer": "Scheele", "score": 8.0, "no_answer_score": 0.0}


def test_cls_may_say_that_there_is_no_answer():
    ends = [(7, 0, 5.0), (7, 1, 3.0), (0, 0, 9.0)]
    assert TASKS["spans"].scores(*span_case(ends, ()), ())["exact_match"] == 1.0
    answered = span_case(ends, (Answer("Scheele", 20),))
    # Every passage holds an answer there, so [CLS] has no say.
    assert TASKS["spans"].scores(*answered, ())["exact_match"] == 1.0
