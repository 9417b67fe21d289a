"""The paired bootstrap: against SciPy, against the tasks' own scores, and its coverage."""

import numpy as np
import pytest
import scipy.stats

from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.questions import Answer, Questions
from bert_jax.data.labelled.text_pairs import TextPairs
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.data.labelled.word_places import places_of_words
from bert_jax.data.labelled.words import TaggedSentences
from bert_jax.train.sweeps.significance import _Scorer, differences, run_weights
from bert_jax.train.tasks import task_named
from bert_jax.train.tasks.task import Judged

NAMES = ("a", "b", "c")


def encoded_texts(labels):
    ones = np.ones((len(labels), 2), np.int32)
    numbers = np.arange(len(labels), dtype=np.int32)
    return EncodedExamples(ones, ones, ones, labels=labels, example=numbers)


def judged(labels, *logits, outputs=NAMES):
    """Texts with these labels, and the logits of some runs."""
    names = tuple(str(label) for label in labels)
    texts = LabelledTexts(tuple(("x",) for _ in names), names)
    return [Judged(x, encoded_texts(labels), texts, outputs) for x in logits]


def answers(rng, labels, skill, num_classes=3):
    """Logits that are right in a share of `skill` and random otherwise."""
    said = np.where(
        rng.random(labels.size) < skill,
        labels,
        rng.integers(num_classes, size=labels.size),
    )
    return np.eye(num_classes, dtype=np.float32)[said] + rng.random(
        (labels.size, num_classes)
    ).astype(np.float32)


def sentences(rng):
    """A tagged file in windows: every sentence has two rows of two words each."""
    tags = ("B-X", "I-X", "O")
    count = 30
    labels = rng.integers(3, size=(2 * count, 2)).astype(np.int32)
    ones = np.ones((2 * count, 2), np.int32)
    examples = TaggedSentences(
        tuple(("w",) * 4 for _ in range(count)),
        tuple(tuple(tags[n] for n in pair) for pair in labels.reshape(count, 4)),
    )
    encoded = EncodedExamples(
        ones,
        ones,
        ones,
        labels=labels,
        example=np.repeat(np.arange(count), 2).astype(np.int32),
        word=np.tile([[0, 1], [2, 3]], (count, 1)),
    )
    logits = rng.normal(size=(2 * count, 2, 3)) + 2 * np.eye(3)[labels]
    return [Judged(logits.astype(np.float32), encoded, examples, tags)]


def questions(rng):
    count, text = 20, "one two three four"
    words = places_of_words(text)
    places = rng.integers(4, size=count)
    gold = [Answer(text[slice(*words[n])], words[n][0]) for n in places]
    examples = Questions(
        ("q",) * count, (text,) * count, tuple((x,) for x in gold), (None,) * count
    )
    ones = np.ones((count, 6), np.int32)
    encoded = EncodedExamples(
        ones,
        ones,
        ones,
        labels=np.stack([places + 1, places + 1], axis=1).astype(np.int32),
        example=np.arange(count, dtype=np.int32),
        word=np.tile([-1, 0, 1, 2, 3, -1], (count, 1)).astype(np.int32),
    )
    logits = rng.normal(size=(count, 6, 2)) + 2 * np.eye(6)[places + 1][:, :, None]
    return [Judged(logits.astype(np.float32), encoded, examples, ("start", "end"))]


def many_classes(rng):
    labels = rng.integers(3, size=40).astype(np.int32)
    return judged(labels, answers(rng, labels, 0.5))


def two_classes(rng):
    labels = rng.integers(2, size=6).astype(np.int32)  # some resamples lack a class
    return judged(labels, answers(rng, labels, 0.2, 2), outputs=("a", "b"))


def numbers(rng):
    labels = rng.normal(size=25).astype(np.float32)
    logits = (labels + rng.normal(size=25))[:, None].astype(np.float32)
    return judged(labels, logits, outputs=("score",))


def equal_numbers(rng):
    """Ties in both, and resamples that may be constant."""
    labels = rng.integers(3, size=5).astype(np.float32)
    logits = rng.integers(2, size=5)[:, None].astype(np.float32)
    return judged(labels, logits, outputs=("score",))


def several_labels(rng):
    labels = (rng.random((30, 3)) < 0.4).astype(np.float32)
    labels[:, 2] = 0.0  # occurs nowhere
    logits = (labels - 0.5 + rng.normal(size=(30, 3))).astype(np.float32)
    names = [[n for n, x in zip(NAMES, row, strict=True) if x] for row in labels]
    texts = LabelledTexts(tuple(("x",) for _ in names), tuple(map(tuple, names)))
    return [Judged(logits, encoded_texts(labels), texts, NAMES)]


def scored_pairs(rng):
    vectors = rng.normal(size=(20, 2, 4)).astype(np.float32)
    labels = rng.random(20).astype(np.float32)
    pairs = TextPairs((("x", "y"),) * 20, tuple(labels.tolist()))
    return [Judged(vectors, encoded_texts(labels), pairs, ())]


@pytest.mark.filterwarnings("ignore:.*single label:UserWarning")
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("classification", many_classes),
        ("classification", two_classes),
        ("regression", numbers),
        ("regression", equal_numbers),
        ("multilabel", several_labels),
        ("embeddings", scored_pairs),
        ("tokens", sentences),
        ("spans", questions),
    ],
)
def test_a_resample_has_the_scores_of_its_task(kind, make):
    """Against `Task.scores` on the examples taken one by one."""
    rng = np.random.default_rng(1)
    task, [case] = task_named(kind), make(rng)
    scorer = _Scorer(task, case)
    count = len(case.examples)
    draws = rng.integers(count, size=(20, count))
    found = scorer(draws)
    shown = {m.name for m in task.metrics}
    for number, draw in enumerate(draws):
        rows = np.concatenate([np.flatnonzero(case.encoded.example == n) for n in draw])
        per_row = {
            name: getattr(case.encoded, name)[rows]
            for name in ("input_ids", "segment_ids", "input_mask", "labels")
        }
        sizes = [(case.encoded.example == n).sum() for n in draw]
        word = None if case.encoded.word is None else case.encoded.word[rows]
        encoded = EncodedExamples(
            **per_row, example=np.repeat(np.arange(count), sizes), word=word
        )
        expected = task.scores(
            Judged(case.logits[rows], encoded, case.examples.take(draw), case.outputs)
        )
        here = {name: values[number] for name, values in found.items()}
        assert here == pytest.approx(
            {name: x for name, x in expected.items() if name in shown}, abs=1e-12
        )


def test_the_interval_is_that_of_scipy():
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=300).astype(np.int32)
    a, b = answers(rng, labels, 0.7), answers(rng, labels, 0.6)
    found = differences(
        task_named("classification"), judged(labels, a), judged(labels, b)
    )
    right = [(x.argmax(axis=1) == labels).astype(float) for x in (a, b)]
    expected = scipy.stats.bootstrap(
        right,
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        batch=500,
        rng=np.random.default_rng(3),
    )
    accuracy = found["accuracy"]
    assert accuracy.difference == pytest.approx(right[0].mean() - right[1].mean())
    # Both ends are quantiles of 10,000 draws. Their standard error is that of a
    # 2.5 % quantile: 0.027 standard deviations of the difference; five times that.
    margin = 5 * 0.027 * expected.standard_error
    interval = expected.confidence_interval
    assert accuracy.low == pytest.approx(interval.low, abs=margin)
    assert accuracy.high == pytest.approx(interval.high, abs=margin)
    assert (accuracy.p_value < 0.05) == (accuracy.low > 0 or accuracy.high < 0)


def test_equal_runs_do_not_differ_and_sides_can_be_exchanged():
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=80).astype(np.int32)
    task = task_named("classification")
    a, b = (judged(labels, answers(rng, labels, skill)) for skill in (0.8, 0.4))
    for found in differences(task, a, a, resamples=500).values():
        assert found[2:] == (0.0, 0.0, 1.0)
    there = differences(task, a, b, resamples=500)
    back = differences(task, b, a, resamples=500)
    assert there.keys() == {"accuracy", "macro_f1", "matthews"}
    for name, found in there.items():
        assert found.difference == -back[name].difference
        assert found.low == pytest.approx(-back[name].high)
        assert found.p_value == back[name].p_value < 0.05
    assert there == differences(task, a, b, resamples=500)


def test_the_interval_covers_the_true_difference():
    """Two encoders of one skill: 5 of 100 intervals should miss 0."""
    rng = np.random.default_rng(5)
    task, missed, small = task_named("classification"), 0, 0
    for _ in range(200):
        labels = rng.integers(2, size=120).astype(np.int32)
        a, b = (
            judged(labels, answers(rng, labels, 0.5, 2), outputs=NAMES[:2])
            for _ in range(2)
        )
        found = differences(task, a, b, resamples=250)["accuracy"]
        missed += not found.low <= 0.0 <= found.high
        small += found.p_value < 0.05
    # Binomial, n = 200 and p = 0.05: between 2 and 19 in 99.8 % of all trials.
    assert 2 <= missed <= 19
    assert 2 <= small <= 19


def test_runs_are_drawn_with_the_whole_variance():
    values = np.array([1.0, 2.0, 6.0, 7.0])
    for count in (2, 3, 4):
        weights = run_weights(count, 100_000, np.random.default_rng(6))
        np.testing.assert_allclose(weights.sum(axis=0), 1.0)
        means = weights.T @ values[:count]
        # The variance of a mean of n; the ordinary bootstrap would give (n - 1) / n of it.
        expected = values[:count].var(ddof=1) / count
        assert means.var() == pytest.approx(expected, rel=0.03)


def test_several_seeds_widen_the_interval():
    """Runs that differ by their seeds more than by their examples."""
    rng = np.random.default_rng(7)
    labels = rng.integers(3, size=400).astype(np.int32)
    skills = (0.2, 0.5, 0.8)
    task = task_named("classification")
    many = [judged(labels, *(answers(rng, labels, x) for x in skills)) for _ in "ab"]
    one = [side[1:2] for side in many]
    wide, narrow = (
        differences(task, *sides, resamples=1_000)["accuracy"] for sides in (many, one)
    )
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.a == pytest.approx(
        np.mean([(x.argmax(axis=1) == labels).mean() for x, *_ in many[0]])
    )
