"""Scores of the four tasks, and a regression from its file to its export."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from prepared_corpus import WORDS, make_corpus
from report_runs import report

from bert_jax import cli
from bert_jax.batch import ClassifyBatch
from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.config_json import from_json
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.exchange.export import export_run
from bert_jax.limits import check_ids
from bert_jax.train.finetune import finetune
from bert_jax.train.losses import regress_loss
from bert_jax.train.predict import Predictor
from bert_jax.train.rejudge import evaluate_run
from bert_jax.train.run import RunInfo, start_run
from bert_jax.train.scores import classification_scores, pearson, regression_scores

# Sums of float64 in another order.
ROUNDING = 1e-12


# Scores.


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


def test_the_loss_is_a_weighted_mean_of_squares():
    none = np.zeros((3, 2), np.int32)
    labels, weights = np.float32([1.0, 4.0, 100.0]), np.float32([1, 1, 0])
    batch = ClassifyBatch(none, none, none, labels, weights)
    loss, metrics = regress_loss(jax.numpy.array([[2.0], [1.0], [0.0]]), batch)
    assert loss == pytest.approx((1.0 + 9.0) / 2)
    assert list(metrics) == ["loss"]


def test_a_score_that_is_no_number_is_refused(tiny, make_classify_batch):
    batch = make_classify_batch()
    check_ids(tiny, batch._replace(labels=np.float32([0.5, 5.0, -1.0])), num_labels=1)
    wrong = batch._replace(labels=np.float32([0.5, np.nan, 1.0]))
    with pytest.raises(ValueError, match=r"labels\[1\]=nan is no finite number"):
        check_ids(tiny, wrong, num_labels=1)


# A run: five times the share of words from the first half of the alphabet.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(folder, run directory of a regression, its config)."""
    folder = tmp_path_factory.mktemp("regression")
    make_corpus(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = ModelConfig(
        vocab_size=44,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        mlp_size=64,
        max_positions=32,
    )
    # An architecture with its tokenizer is all that a start from scratch takes.
    begun = RunInfo(
        kind="pretrain", model=model, tokenizer_sha256=tokenizer.sha256, data={}
    )
    data = DataConfig(sequence_length=32)
    shown = PretrainConfig(model=model, data=data)
    start_run(folder / "pretrain", shown, begun, tokenizer)
    rng = np.random.default_rng(0)
    for name, header, count in (("train", "a\tscore", 256), ("dev", "b\tscore", 64)):
        rows = [rng.choice(WORDS, 6) for _ in range(count)]
        lines = [f"{' '.join(row)}\t{5.0 * (row < 'n').mean():.3f}" for row in rows]
        (folder / f"{name}.tsv").write_text("\n".join([header, *lines]) + "\n")
    cfg = FinetuneConfig(
        checkpoint=folder / "pretrain",
        from_scratch=True,
        task=TaskConfig(
            train=folder / "train.tsv",
            validation=folder / "dev.tsv",
            text_columns=("a",),
            validation_text_columns=("b",),
            label_column="score",
            kind="regression",
        ),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=0, b2=0.98),
        loop=LoopConfig(log_every_steps=8, eval_every_steps=0),
        dropout_rate=0.0,
        sequence_length=32,
        batch_size=32,
        num_epochs=8,
    )
    finetune(cfg, folder / "tuned")
    return folder, folder / "tuned", cfg


def test_a_regression_is_learned(tuned):
    folder, run, _ = tuned
    results = json.loads((run / "results.json").read_text())
    held_out = np.loadtxt(folder / "dev.tsv", delimiter="\t", skiprows=1, usecols=1)
    assert results["constant_mse"] == pytest.approx(held_out.var(), rel=1e-6)
    found = results["eval"]
    assert set(found) == {"pearson", "spearman", "mse", "loss"}
    assert found["pearson"] > 0.7
    assert found["mse"] < 0.5 * results["constant_mse"]
    assert results["labels"] == ["score"]
    assert "confusion" not in results
    assert "majority_accuracy" not in results
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines]
    assert losses[-2] < 0.5 * losses[0]


def test_it_is_judged_again_to_the_same_scores(tuned):
    folder, run, _ = tuned
    expected = json.loads((run / "results.json").read_text())["eval"]
    # One device here, eight there: sums in another order.
    assert evaluate_run(run, None) == pytest.approx(expected, rel=1e-5)
    assert evaluate_run(run, folder / "dev.tsv") == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="nothing in column 'b'"):
        evaluate_run(run, folder / "train.tsv")


def test_it_predicts_scores(tuned, capsys):
    _, run, _ = tuned
    low, high = (
        f"{one} {two} " * 3 for one, two in (("window", "river"), ("letter", "music"))
    )
    low, high = low.strip(), high.strip()
    found = Predictor(run)([(low,), (high,)])
    assert found.shape == (2, 1)
    assert found[1, 0] - found[0, 0] > 1.0
    cli.main(["predict", str(run), low, high])
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        f"score {found[0, 0]:.3f}  |  {low}",
        f"score {found[1, 0]:.3f}  |  {high}",
    ]


def test_another_kind_of_task_is_another_run(tuned):
    _, run, cfg = tuned
    other = dataclasses.replace(cfg.task, kind="classification")
    with pytest.raises(ValueError, match="begun with another labels"):
        finetune(dataclasses.replace(cfg, task=other), run)


def test_baselines_are_classifiers(tuned, tmp_path):
    from bert_jax.train.baselines import baselines

    with pytest.raises(ValueError, match="kind='regression' has no baselines"):
        baselines(tuned[2].task, tmp_path / "baselines")


def test_the_report_is_about_classifiers(tuned, tmp_path):
    with pytest.raises(ValueError, match=r"results\.json is of a regression; expected"):
        report(tmp_path / "report", finetunes=[tuned[1]])


def test_transformers_takes_it_for_a_regression(tuned, tmp_path, hf, silent):
    _, run, _ = tuned
    said = export_run(run, tmp_path / "hf", "huggingface")
    assert "loaded back by transformers" in said
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["problem_type"] == "regression"
    assert config["id2label"] == {"0": "score"}
    assert "gives the score of a text" in (tmp_path / "hf/README.md").read_text()
    texts = ["stone letter music", "window"]
    ours = Predictor(run)([(text,) for text in texts])[:, 0]
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "hf")
    pipe = hf.pipeline("text-classification", model=model, tokenizer=tokenizer)
    # Without an activation, since the config says that it is a regression.
    theirs = [found["score"] for found in pipe(texts)]
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("to", ["stablehlo"])
def test_other_exports_give_the_score_too(tuned, tmp_path, to):
    said = export_run(tuned[1], tmp_path / to, to)
    assert "largest difference" in said


def test_a_config_from_before_is_a_classification():
    text = (
        '{"task": {"train": "a.tsv", "validation": "b.tsv", "text_columns": ["text"], '
        '"label_column": "label"}}'
    )
    task = from_json(FinetuneConfig, text).task
    assert task == TaskConfig(
        train=pathlib.Path("a.tsv"), validation=pathlib.Path("b.tsv")
    )
    assert task.kind == "classification"
