"""Counts, a task: its numbers, a run from labelled texts, and its predictions."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from bare_runs import bare_run
from prepared_corpus import WORDS
from small_pretraining import one_device  # noqa: F401

from bert_jax import cli
from bert_jax.batch import ClassifyBatch
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.train.tasks import task_named
from bert_jax.train.tasks.task import Judged

OUTPUTS = ("score",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder without weights, and texts of which a river is worth four replies."""
    folder = tmp_path_factory.mktemp("counts")
    bare_run(folder)
    rng = np.random.default_rng(0)
    rows = ["text,label"]
    for _ in range(120):
        first, *others = rng.choice(WORDS[:3], 4)
        rows.append(f"{first} {' '.join(others)},{4 * (first == 'river')}")
    (folder / "all.csv").write_text("\n".join(rows))
    (folder / "wrong.csv").write_text("text,label\nriver,2\nstone,1\nwindow,-1\n")
    return folder


def finetune(folder, *flags):
    fixed = ("--task", "counts", "--dev", 0.2, "--from-scratch", "--batch-size", 16)
    cli.main([*map(str, ("finetune", folder / "pretrain", *fixed, *flags))])


def test_its_numbers_are_those_of_poissons_distribution(folder):
    task, counts = task_named("counts"), [0, 3, 1, 7]
    examples = LabelledTexts(
        tuple((word,) for word in WORDS[:4]), tuple(map(str, counts))
    )
    tokenizer = load_tokenizer(folder / "tokenizer")
    encoded = task.encode(tokenizer, examples, OUTPUTS, 16)
    rates = np.array([0.5, 2.0, 1.5, 4.0])
    logits = np.log(rates, dtype=np.float32)[:, None]
    # -log of the probability, without log(count!), which is the same for all weights.
    expected = np.mean(
        [
            -math.log(rate**count * math.exp(-rate))
            for rate, count in zip(rates, counts, strict=True)
        ]
    )
    batch = ClassifyBatch(None, None, None, jnp.asarray(encoded.labels), jnp.ones(4))
    found = task.loss(jnp.asarray(logits), batch)["loss"].value()
    judged = Judged(logits, encoded, examples, OUTPUTS)
    scores = task.scores(judged)
    np.testing.assert_allclose([found, scores["loss"]], expected, rtol=1e-6)
    assert scores["mse"] == pytest.approx(np.mean((rates - counts) ** 2), rel=1e-6)
    [spread] = task.by_counts(judged)(np.ones((1, 4)))["mse"]
    assert spread == pytest.approx(scores["mse"], rel=1e-6)
    said = task.predictions(judged)
    np.testing.assert_allclose([x["score"] for x in said], rates, rtol=1e-6)


def test_a_count_below_0_is_refused_with_its_line(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        finetune(folder, "--train", folder / "wrong.csv", "--output", tmp_path / "run")
    assert "wrong.csv, line 4: the label -1 is below 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_learns_and_predicts_them(folder, tmp_path):
    run, answers = tmp_path / "run", tmp_path / "said.jsonl"
    finetune(
        folder,
        *("--train", folder / "all.csv", "--output", run, "--num-epochs", 20),
        *("--optimizer.learning-rate", 3e-3),
    )
    results = json.loads((run / "results.json").read_text())
    assert results["eval"]["mse"] < 0.5 * results["constant"]["mse"]
    texts = ("river stone stone stone", "stone river stone window")
    cli.main(["predict", str(run), *texts, "--output", str(answers)])
    many, few = (json.loads(line)["score"] for line in answers.read_text().splitlines())
    assert many > 2.0 > few > 0.0
