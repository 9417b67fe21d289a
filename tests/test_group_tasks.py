"""Multiple choice and sentence embeddings, from files over training to predictions."""

import json
import pathlib

import numpy as np
import pytest
from bare_runs import bare_run
from group_runs import tuned
from scipy.stats import spearmanr
from small_pretraining import one_device  # noqa: F401

from bert_jax import cli
from bert_jax.data.labelled.unlabelled import Unlabelled
from bert_jax.exchange.export import export_run
from bert_jax.train import logits
from bert_jax.train.inference.embed import Embedder
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.runs.run import load_run, load_run_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs(name) -> (run directory, its config, its results)."""
    folder = tmp_path_factory.mktemp("groups")
    checkpoint = bare_run(folder)
    done = {}

    def call(name):
        if name not in done:
            done[name] = tuned(folder, checkpoint, name)
        return done[name]

    return call


def test_choices_are_learned_and_predicted(runs):
    run, cfg, results = runs("choice")
    assert results["eval"]["accuracy"] > 0.9 > results["constant"]["accuracy"] + 0.2
    assert load_run(run).labels == ("0", "1", "2")
    predictor = Predictor(run)
    lines = list(predictor.lines([predictor.read(cfg.task.dev)]))
    given = [json.loads(x) for x in cfg.task.dev.read_text().splitlines()]
    assert [x["text"] for x in lines] == [[x["question"], *x["choices"]] for x in given]
    right = [x["label"] == str(y["answer"]) for x, y in zip(lines, given, strict=True)]
    assert np.mean(right) == pytest.approx(results["eval"]["accuracy"])
    found = predictor([("river", "window stone", "letter music")])[0]
    assert (found["label"], found["choice"]) == ("1", "letter music")
    share = found["probabilities"]["1"]
    assert predictor.task.say(found, 1) == f"1 {share:.1%}  letter music"
    given = Unlabelled([("",), ("river", "window")])
    with pytest.raises(
        ValueError, match=r"Text 2 is .* a text and two choices or more"
    ):
        list(predictor.lines([given]))


@pytest.mark.slow(ci=False)
def test_similarities_are_learned_and_predicted(runs, capsys):
    run, cfg, results = runs("scored")
    assert "scored pairs: the cosine of both vectors" in capsys.readouterr().out
    assert results["eval"]["spearman"] > 0.7
    assert load_run_config(run).task.label == "score"
    predictor = Predictor(run)
    lines = list(predictor.lines([predictor.read(cfg.task.dev)]))
    given = [json.loads(x)["score"] for x in cfg.task.dev.read_text().splitlines()]
    cosines = [x["similarity"] for x in lines]
    spearman = spearmanr(cosines, given).statistic
    assert spearman == pytest.approx(results["eval"]["spearman"], rel=1e-4)
    found = predictor([("letter music", "letter"), ("letter", "window stone")])
    assert found[0]["similarity"] > found[1]["similarity"] + 0.3


@pytest.mark.slow(ci=False)
def test_matching_texts_are_learned(runs, capsys):
    run, _, results = runs("matching")
    assert "matching pairs: " in capsys.readouterr().out
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    # Half of the 32 rows of a batch could be meant: the logarithm of 16.
    assert losses[-1] < 2.77 + 0.15 < losses[0]
    assert results["eval"].keys() == {"accuracy", "mrr", "loss"}


def test_vectors_of_matching_texts_can_be_judged_on_scores(runs):
    """Trained on pairs without scores, judged on pairs with them."""
    scores = evaluate_run(runs("matching")[0], runs("scored")[1].task.dev)
    assert scores["spearman"] > 0.7
    assert scores.keys() == {"spearman", "pearson", "loss"}


def test_texts_become_a_matrix_in_their_order(runs, tmp_path, monkeypatch, capsys):
    run, _, _ = runs("scored")
    monkeypatch.chdir(tmp_path)
    texts = ["letter", "", "letter music " * 5, "window\tstone", "music"]
    pathlib.Path("x.txt").write_text("\n".join(texts) + "\n")
    cli.main(["embed", str(run), "x.txt", "--output", "x.npy", "--batch-size", "2"])
    said = capsys.readouterr().out
    assert (
        "x.npy: float32 [5, 32], mean pooling, at most 16 tokens; zeros for 1 empty text"
        in said
    )
    found = np.load("x.npy")
    assert (found.dtype, found.shape) == (np.float32, (5, 32))
    assert not found[1].any()
    # As in a prediction on the pair of both.
    [pair] = Predictor(run)([(texts[2], texts[3])])
    cosine = found[2] @ found[3] / np.linalg.norm(found[2]) / np.linalg.norm(found[3])
    assert cosine == pytest.approx(pair["similarity"], abs=1e-5)

    lines = [{"id": n, "b": text} for n, text in enumerate(texts)]
    pathlib.Path("x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ("--text", "b", "--normalise", "--pooling", "cls")
    cli.main(["embed", str(run), "x.jsonl", "--output", "y.npy", *flags])
    unit = np.load("y.npy")
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 0, 1, 1, 1], rtol=1e-5)
    assert abs(unit[0] - found[0] / np.linalg.norm(found[0])).max() > 0.01


def test_any_number_of_texts_takes_few_programs(runs, monkeypatch):
    monkeypatch.setattr(logits, "_COMPILE_FLOPS", 0.0)
    embedder = Embedder(runs("scored")[0], batch_size=16)
    done = []
    texts = [" ".join(["music"] * (n % 14 + 1)) for n in range(400)]
    found = embedder(texts, lambda *numbers: done.append(numbers))
    assert done[-1] == (25, 25)
    assert embedder._vectors._logits._cache_size() == 2
    np.testing.assert_allclose(found[::14], found[:1].repeat(29, 0), atol=1e-5)


def test_the_encoder_of_any_task_can_be_used(runs):
    found = Embedder(runs("choice")[0], sequence_length=8)(["letter", "window"])
    assert found.shape == (2, 32)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("x.csv", ["--output", "y.csv"], "give a name that ends in .npy"),
        ("x.csv", ["--output", "x.npy"], "has two columns of texts"),
        ("x.csv", ["--output", "x.npy", "--label", "a"], "vectors have no label"),
        ("no.txt", ["--output", "x.npy"], "does not exist"),
        ("empty.txt", ["--output", "x.npy"], "each is empty"),
        ("x.txt", ["--output", "x.npy", "--sequence-length", "65"], "64 positions"),
    ],
)
def test_what_cannot_be_embedded_is_told(
    runs, tmp_path, monkeypatch, refused, name, flags, message
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("x.csv").write_text("sentence1,sentence2\na,b\n")
    pathlib.Path("x.txt").write_text("a\n")
    pathlib.Path("empty.txt").write_text(" \n\n")
    assert message in refused("embed", runs("scored")[0], name, *flags)


@pytest.mark.slow(ci=False)
def test_sentence_transformers_gives_the_vectors_of_a_run(runs, tmp_path, transformers):
    package = pytest.importorskip(
        "sentence_transformers", reason="install .[export]", exc_type=ImportError
    )
    run, _, _ = runs("scored")
    said = export_run(run, tmp_path / "st", "huggingface")
    assert "loaded back by sentence-transformers: every weight bit by bit" in said
    texts = ["letter music river", "window", "stone " * 30]
    model = package.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    np.testing.assert_allclose(model.encode(texts), Embedder(run)(texts), atol=1e-5)
