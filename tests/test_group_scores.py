"""Losses and scores of choices and of sentence embeddings, against other programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr, spearmanr

from bert_jax.batch import ClassifyBatch
from bert_jax.data.labelled.choices import Choices
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.text_pairs import TextPairs
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.embeddings import cosines_of, normalised
from bert_jax.train.tasks.task import Judged

EMBEDDINGS, CHOICE = TASKS["embeddings"], TASKS["choice"]


def batch_of(labels, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    return ClassifyBatch(None, None, None, labels, np.asarray(weights, np.float32))


def encoded(labels):
    ids = np.zeros((len(labels), 2, 1), np.int32)
    return EncodedExamples(ids, ids, ids, labels, np.arange(len(labels)))


@pytest.fixture
def vectors():
    """Five groups of three."""
    drawn = np.random.default_rng(0).normal(size=(5, 3, 6))
    return (drawn * [[[1.0], [2.0], [0.5]]]).astype(np.float32)


def value(loss):
    return float(loss.sum / loss.weight)


def test_the_loss_of_scored_pairs_is_that_of_their_cosines(vectors):
    labels = np.float32([0.1, 0.9, 0.4, 0.5, 0.0])
    found = EMBEDDINGS.loss(vectors[:, :2], batch_of(labels, [1, 1, 1, 1, 0]))
    errors = [
        (1.0 - cosine(*pair[:2]) - label) ** 2
        for pair, label in zip(vectors, labels, strict=True)
    ]
    assert value(found["loss"]) == pytest.approx(np.mean(errors[:4]), rel=1e-5)


@pytest.mark.parametrize("num_texts", [2, 3])
def test_the_loss_of_matching_texts_is_that_of_torch(vectors, num_texts):
    """Henderson's loss, written with PyTorch, on the examples that count."""
    torch = pytest.importorskip("torch", reason="install .[export]")
    weights = [1, 1, 0, 1, 1]
    labels = np.zeros(5, np.int32)
    given = vectors[:, :num_texts]
    found = EMBEDDINGS.loss(given, batch_of(labels, weights))
    real = torch.tensor(given[np.array(weights) > 0])
    unit = torch.nn.functional.normalize(real, dim=-1)
    candidates = torch.cat([unit[:, n] for n in range(1, num_texts)])
    logits = 20.0 * unit[:, 0] @ candidates.T
    # The third example is no candidate either: it only fills up the batch.
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    assert value(found["loss"]) == pytest.approx(float(expected), rel=1e-5)
    right = (logits.argmax(dim=1) == torch.arange(4)).float().mean()
    assert value(found["batch_accuracy"]) == pytest.approx(float(right))


def test_a_vector_of_zeros_gives_no_nan():
    def loss(vectors):
        return EMBEDDINGS.loss(vectors, batch_of(np.zeros(2, np.int32)))["loss"].sum

    zeros = jnp.zeros((2, 2, 4))
    assert np.isfinite(loss(zeros))
    assert np.isfinite(jax.jit(jax.grad(loss))(zeros)).all()


def test_scores_of_scored_pairs_are_those_of_scipy(vectors):
    labels = np.float32([0.1, 0.9, 0.4, 0.4, 0.0])
    examples = TextPairs((("a", "b"),) * 5, tuple(labels.tolist()))
    judged = Judged(vectors[:, :2], encoded(labels), examples, ())
    found = EMBEDDINGS.scores(judged)
    cosines = [1.0 - cosine(*pair[:2]) for pair in vectors]
    assert found["spearman"] == pytest.approx(spearmanr(cosines, labels).statistic)
    assert found["pearson"] == pytest.approx(pearsonr(cosines, labels).statistic)
    np.testing.assert_allclose(cosines_of(vectors), cosines, rtol=1e-6)
    each = EMBEDDINGS.example_losses(judged)
    np.testing.assert_allclose(each, np.square(cosines - labels), rtol=1e-5)
    assert next(examples.shown()) == ("a\nb", "similarity 0.1")
    [first, *_] = EMBEDDINGS.predictions(judged)
    assert first["similarity"] == pytest.approx(cosines[0])
    assert EMBEDDINGS.say(first, 3) == f"similarity {cosines[0]:.3f}"


def test_retrieval_looks_for_each_text_among_all():
    """Of four anchors: found first, second, first (a text that occurs twice), last."""
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    texts = [("a", "p", "n"), ("b", "q", "m"), ("c", "p", "m"), ("d", "r", "m")]
    of = {"p": east, "q": north, "r": west, "n": [3.0, 3.0], "m": [1.0, -1.0]}
    anchors = [[2.0, 0.0], [0.6, 0.8], [1.0, 0.1], [1.0, 0.0]]
    vectors = np.float32(
        [[a, of[x], of[y]] for a, (_, x, y) in zip(anchors, texts, strict=True)]
    )
    examples = TextPairs(tuple(texts), None)
    labels = np.zeros(4, np.int32)
    judged = Judged(vectors, encoded(labels), examples, ())
    found = EMBEDDINGS.scores(judged)
    assert found["accuracy"] == 0.5
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 + 1 / 5) / 4)
    unit = normalised(vectors[:, 0])
    candidates = normalised(np.float32(list(of.values())))
    logits = 20.0 * unit @ candidates.T
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_probs[range(4), [0, 1, 0, 2]].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert EMBEDDINGS.constant_scores(examples) == {"accuracy": 0.2}
    # A resample looks for its texts among all candidates, not among its own.
    by_counts = EMBEDDINGS.by_counts(judged)
    drawn = by_counts(np.array([[0.0, 3.0, 0.0, 1.0]]))
    assert drawn["accuracy"] == 0.0
    assert drawn["mrr"] == pytest.approx((3 / 2 + 1 / 5) / 4)
    losses = EMBEDDINGS.example_losses(judged)
    assert losses.argmax() == 3
    assert list(examples.shown())[3] == ("d\nr\nm", "belong together")
    # One vector for all texts is found as often as by chance.
    same = EMBEDDINGS.scores(judged._replace(logits=np.ones_like(vectors)))
    assert same["accuracy"] == pytest.approx(0.2)


def test_what_decides_is_what_was_measured():
    assert EMBEDDINGS.deciding({"loss", "pearson", "spearman"}).name == "spearman"
    assert EMBEDDINGS.deciding({"loss", "mrr", "accuracy"}).name == "accuracy"
    assert EMBEDDINGS.deciding(()).name == "spearman"


def test_choices_are_a_softmax_over_those_that_there_are():
    logits = np.float32([[0.0, 1.0, 3.0], [2.0, 0.5, -1e9]])
    examples = Choices((("t", "x", "y", "z"), ("t", "x", "y")), ("3", "2"))
    labels = np.array([2, 1], np.int32)
    losses = [np.log(np.exp([-3.0, -2.0, 0.0]).sum()), np.log(1.0 + np.exp(1.5))]
    found = CHOICE.loss(logits, batch_of(labels))
    assert value(found["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    judged = Judged(logits, encoded(labels), examples, ("1", "2", "3"))
    scores = CHOICE.scores(judged)
    assert scores["accuracy"] == value(found["accuracy"]) == 0.5
    assert scores["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    by_counts = CHOICE.by_counts(judged)
    assert by_counts(np.eye(2))["accuracy"].tolist() == [1.0, 0.0]
    each = CHOICE.example_losses(judged)
    np.testing.assert_allclose(each, losses, rtol=1e-6)
    assert CHOICE.constant_scores(examples) == {"accuracy": 0.5}
    first, second = CHOICE.predictions(judged)
    assert (first["label"], first["choice"]) == ("3", "z")
    assert second["probabilities"].keys() == {"1", "2"}
    assert sum(second["probabilities"].values()) == pytest.approx(1.0)
    one = Judged(logits[:1], None, examples.take(np.array([0])), ("1",))
    [more] = CHOICE.predictions(one)
    assert more["label"] == "choice 3"
