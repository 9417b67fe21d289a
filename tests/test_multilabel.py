"""Any number of labels for a text: its files, its loss and its scores."""

import json

import numpy as np
import pytest
import sklearn.metrics

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.texts import LabelledTexts, read_texts
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.multilabel import multilabel_scores
from bert_jax.train.tasks.task import Judged

TASK = TASKS["multilabel"]


@pytest.fixture
def labels_of(tmp_path):
    """labels_of(name, content, **settings) -> the label sets of a file."""

    def call(name, content, **settings):
        (tmp_path / name).write_text(content)
        cfg = TaskConfig(kind="multilabel", **settings)
        return read_texts(tmp_path / name, cfg, several=True).labels

    return call


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.tsv", "text\tlabels\na\tx|y\nb\t\nc\ty\n", (("x", "y"), (), ("y",))),
        ("x.csv", 'text,labels\na,"x, y,x"\nb,y\n', (("x", "y"), ("y",))),
        ("x.csv", "text,labels\na,\"['x', 'y']\"\nb,[]\n", (("x", "y"), ())),
        ("x.tsv", 'text\tlabels\na\t["x", "y, z"]\n', (("x", "y, z"),)),
        ("x.tsv", "text\tlabels\na\tx y\n", (("x y",),)),
        (
            "x.csv",
            "text;labels\na;['x' \"it's z\" 'y']\nb;\"['w, v'\n 'x']\"\nc;[1 2]\n",
            (("x", "it's z", "y"), ("w, v", "x"), ("1", "2")),
        ),
        ("x.tsv", 'text\tlabels\na\t["x", null, "\\ud83d\\ude00"]\n', (("x", "😀"),)),
        ("x.tsv", "text\tlabels\na\t[see below]\n", (("[see below]",),)),
        (
            "x.csv",
            "text;labels\na;{'y', 'x'}\nb;set()\nc;('x', \"it's, z\")\nd;('y',)\ne;()\n",
            (("y", "x"), (), ("x", "it's, z"), ("y",), ()),
        ),
        (
            "x.csv",
            "text;labels\na;[x] w,y\nb;(see z)\n",
            (("[x] w", "y"), ("(see z)",)),
        ),
    ],
)
def test_labels_stand_in_one_column(labels_of, name, content, expected):
    assert labels_of(name, content) == expected


def test_lists_of_json_and_parquet_are_labels(labels_of, tmp_path):
    rows = [{"text": "a", "labels": ["x", 3]}, {"text": "b", "labels": []}]
    found = labels_of("x.jsonl", "\n".join(map(json.dumps, rows)))
    assert found == (("x", "3"), ())
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a", "b"], "labels": [["x", "y"], []]})
    pq.write_table(table, tmp_path / "x.parquet")
    found = read_texts(tmp_path / "x.parquet", TaskConfig(), several=True)
    assert found.labels == (("x", "y"), ())


def test_columns_of_0_and_1_are_labels(labels_of):
    content = "text,toxic,insult\na,1,0\nb,0,0\nc,1,1\n"
    columns = ("toxic", "insult")
    found = labels_of("x.csv", content, label_columns=columns)
    assert found == (("toxic",), (), ("toxic", "insult"))


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text,labels\na,x|y;z\n", {}, r"hold '\|' and ';'.*--label-separator '\|'"),
        ("text,labels\na\n", {}, "line 2: nothing in column 'labels'"),
        ('text,labels\na,"{x,y}"\n', {}, r"labels '\{x,y\}' stand between brackets"),
        ("text,labels\na,[x;y]\n", {"label_separator": ";"}, "stand between brackets"),
        ("text,t\na,2\n", {"label_columns": ("t",)}, "line 2: column 't' holds '2'"),
        ("text,t\na,\n", {"label_columns": ("t",)}, "line 2: nothing in column 't'"),
        ("text,t\na,1\n", {"label_columns": ("u",)}, "no column 'u'"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(labels_of, content, settings, message):
    with pytest.raises(ValueError, match=message):
        labels_of("x.csv", content, **settings)
    assert labels_of("x.csv", "text,labels\na,x|y;z\n", label_separator="|") == (
        ("x", "y;z"),
    )


def test_settings_of_several_labels_are_refused_for_one(tmp_path):
    (tmp_path / "x.csv").write_text("text,a,b\nt,0,1\n")
    with pytest.raises(ValueError, match=r"would be ignored: .*--task multilabel"):
        read_texts(tmp_path / "x.csv", TaskConfig(label_columns=("a", "b")))


def test_targets_are_indicators_and_unknown_labels_refused():
    examples = LabelledTexts((("t",),) * 3, (("b", "a"), (), ("c",)))
    outputs = TASK.outputs(examples)
    assert outputs == ("a", "b", "c")
    found = TASK.targets(examples, outputs)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(
        ValueError, match=r"'c' \(1 times\) is none of the model's labels"
    ):
        TASK.targets(examples, ("a", "b"))


def random_logits(rows=40, outputs=5):
    rng = np.random.default_rng(0)
    labels = (rng.random((rows, outputs)) < 0.3).astype(np.float32)
    labels[:, -1] = 0.0  # a label that no text has
    logits = rng.normal(0, 2, labels.shape) + 2 * labels
    logits[:, -1] = -1.0
    return logits.astype(np.float32), labels


def encoded_as(labels, example=None):
    none = np.zeros((len(labels), 5), np.int32)
    example = np.arange(len(labels)) if example is None else example
    return EncodedExamples(none, none, none, labels, example.astype(np.int32))


def test_scores_are_those_of_scikit_learn():
    logits, labels = random_logits()
    found, truth = multilabel_scores(logits, labels), labels > 0
    probs = 1 / (1 + np.exp(-logits.astype(np.float64)))
    for name in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(
            truth, probs > 0.5, average=name, zero_division=0
        )
        assert found[f"{name}_f1"] == pytest.approx(expected, rel=1e-12)
    expected = sklearn.metrics.accuracy_score(truth, probs > 0.5)
    assert found["subset_accuracy"] == pytest.approx(expected, rel=1e-12)
    expected = np.mean(
        [
            sklearn.metrics.log_loss(truth[:, n], probs[:, n], labels=[0, 1])
            for n in range(5)
        ]
    )
    assert found["loss"] == pytest.approx(expected, rel=1e-6)  # logits are float32
    judged = Judged(logits, encoded_as(labels), None, "abcde")
    rows = TASK.details(judged)["per_label"]
    per_label = {row.pop("label"): row for row in rows}
    expected = sklearn.metrics.precision_score(truth[:, 1], logits[:, 1] > 0)
    assert per_label["b"]["precision"] == expected
    assert per_label["b"]["support"] == truth[:, 1].sum()
    assert per_label["e"] == dict.fromkeys(("precision", "recall", "f1", "support"), 0)


def test_the_loss_is_that_of_the_scores():
    logits, labels = random_logits()
    none = np.zeros((40, 5), np.int32)
    weights = np.ones(40, np.float32)
    weights[30:] = 0.0
    batch = ClassifyBatch(none, none, none, labels, weights)
    found = TASK.loss(logits, batch)["loss"].value()
    expected = multilabel_scores(logits[:30], labels[:30])["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_as_many_labels_as_tokens_are_not_cut_with_the_padding():
    _, labels = random_logits(rows=3)
    batch = encoded_as(labels).batch(np.arange(3), 3, length=2)
    assert (batch.input_ids.shape, batch.labels.shape) == ((3, 2), (3, 5))


def test_windows_answer_with_the_mean_of_their_logits():
    logits, labels = random_logits(rows=4)
    example = np.array([0, 0, 0, 1])
    labels[:3] = labels[0]
    pooled = np.stack([logits[:3].mean(axis=0), logits[3]])
    encoded = encoded_as(labels, example)
    judged = Judged(logits, encoded, None, "abcde")
    found = TASK.scores(judged)
    expected = multilabel_scores(pooled, labels[[0, 3]])
    assert found == pytest.approx(expected, rel=1e-6)  # float32 sums
    predictions = TASK.predictions(judged)
    assert len(predictions) == 2
    for prediction, row in zip(predictions, pooled, strict=True):
        assert prediction["labels"] == [
            n for n, x in zip("abcde", row, strict=True) if x > 0
        ]
    one = TASKS["classification"].scores(
        judged._replace(encoded=encoded_as(np.array([2, 2, 2, 0]), example))
    )
    assert one["accuracy"] == np.mean(pooled.argmax(axis=1) == [2, 0])
    number = TASKS["regression"].predictions(
        Judged(logits[:, :1], encoded, None, ("score",))
    )
    assert number[0]["score"] == pytest.approx(pooled[0, 0], rel=1e-6)


def test_the_best_constant_answer_is_found():
    labels = (("a", "b"), ("a", "b"), ("a",), (), ("a", "c"))
    found = TASK.constant_scores(LabelledTexts((("t",),) * 5, labels))
    best = 0.0
    truth = np.array([[n in x for n in "abc"] for x in labels])
    for number in range(8):
        answer = np.tile([bool(number & 1 << n) for n in range(3)], (5, 1))
        score = sklearn.metrics.f1_score(
            truth, answer, average="micro", zero_division=0
        )
        best = max(best, score)
    assert found["micro_f1"] == pytest.approx(best, rel=1e-12)
    assert found["subset_accuracy"] == 0.4


def test_the_true_labels_are_shown_as_the_predicted_ones_are():
    examples = LabelledTexts((("a",), ("b",)), (("x", "y"), ()))
    assert list(examples.shown()) == [("a", "x, y"), ("b", "no label")]


def test_a_text_without_a_label_says_so():
    logits, encoded = np.float32([[-1, -2]]), encoded_as(np.zeros((1, 2)))
    [prediction] = TASK.predictions(Judged(logits, encoded, None, ("a", "b")))
    assert prediction["labels"] == []
    assert TASK.say(prediction, 1) == "no label (a 26.9%)"
    prediction["labels"] = ["b", "c"]
    assert TASK.say(prediction, 1) == "b, c (a 26.9%)"


def test_a_regression_on_words_learns_each_label():
    rng = np.random.default_rng(0)
    draws = [rng.choice(["sun", "rain", "wind", "snow"], 3) for _ in range(80)]
    examples = LabelledTexts(
        tuple((" ".join(words),) for words in draws),
        tuple(tuple({*words} & {"rain", "snow"}) for words in draws),
    )
    train, held_out = (examples.take(np.arange(n, n + 40)) for n in (0, 40))
    found = TASK.baselines(train, held_out, ("rain", "snow"))
    assert found["tfidf_logistic_regression"]["micro_f1"] > 0.95
