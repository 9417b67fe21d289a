"""Every task from its file over training to predictions, scores and a report."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from bare_runs import bare_run
from prepared_corpus import WORDS

from bert_jax import cli
from bert_jax.config import (
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    OptimizerConfig,
    TaskConfig,
)
from bert_jax.data.json_file import read_json
from bert_jax.exchange.export import export_run
from bert_jax.train import logits, loop
from bert_jax.train.baselines import baselines
from bert_jax.train.finetune import finetune
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.runs.run import load_run, load_run_config
from bert_jax.train.stop_request import InterruptedRunError
from bert_jax.train.tasks import TASKS

KINDS = (
    *("classification", "regression", "tokens", "spans"),
    pytest.param("multilabel", marks=pytest.mark.slow(ci=False)),
)


# Of the share of early words in a text; "early" and "late" may both be labels of it.
LABEL_OF = {
    "classification": lambda share: share > 0.3,
    "multilabel": lambda share: "early|" * (share > 0.3) + "late" * (share < 0.4),
    "regression": lambda share: 5.0 * share,
}


def is_early(word):
    """Whether a word is from the first half of the alphabet: what all tasks are about."""
    return word < "n"


def write_files(folder, kind):
    """Files to train on and to judge on, and the settings that read them."""
    rng = np.random.default_rng(0)
    suffix = {"tokens": "conll", "spans": "json"}.get(kind, "tsv")
    for name, count in (("train", 256), ("dev", 64)):
        rows = [rng.choice(WORDS, 6) for _ in range(count)]
        path = folder / f"{kind}-{name}.{suffix}"
        if kind == "spans":
            path.write_text(json.dumps(questions(rows)))
        elif kind == "tokens":
            sentences = ("".join(tagged(word) for word in row) for row in rows)
            path.write_text("\n".join(sentences))
        else:
            shares = [float(is_early(row).mean()) for row in rows]
            labels = [LABEL_OF[kind](x) for x in shares]
            lines = [f"{' '.join(r)}\t{x}" for r, x in zip(rows, labels, strict=True)]
            path.write_text("\n".join(["a\tmark", *lines]) + "\n")
    columns = {"text": ("a",), "label": "mark"}
    return TaskConfig(
        kind=kind,
        train=folder / f"{kind}-train.{suffix}",
        dev=folder / f"{kind}-dev.{suffix}",
        **(columns if suffix == "tsv" else {}),
    )


def tagged(word):
    return f"{word}\t{'B-EARLY' if is_early(word) else 'O'}\n"


def questions(rows):
    """Where is the first word from the first half of the alphabet?"""
    found = []
    for row in rows:
        words = [word for word in row if is_early(word)]
        context = " ".join(row)
        answers = [{"text": w, "answer_start": context.index(w)} for w in words[:1]]
        qas = [{"question": "river", "answers": answers}]
        found.append({"context": context, "qas": qas})
    return {"data": [{"paragraphs": found}]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """(folder, run directory with a tokenizer and an architecture, and no weights)."""
    folder = tmp_path_factory.mktemp("tasks")
    return folder, bare_run(folder)


@pytest.fixture(scope="module")
def tuned(encoder):
    """tuned(kind) -> (run directory, its config, its results)."""
    folder, pretrained = encoder
    done = {}

    def run(kind):
        if kind not in done:
            cfg = FinetuneConfig(
                checkpoint=pretrained,
                from_scratch=True,
                task=write_files(folder, kind),
                optimizer=OptimizerConfig(
                    learning_rate=5e-3, warmup_steps=0.1, b2=0.98
                ),
                loop=LoopConfig(log_every_steps=8, eval_every_steps=0),
                dropout=DropoutConfig(hidden=0.0, attention=0.0),
                sequence_length=64 if kind == "spans" else 48,
                batch_size=32,
                num_epochs=8,
            )
            done[kind] = (folder / kind, cfg, finetune(cfg, folder / kind))
        return done[kind]

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_learned(tuned, kind):
    run, _, results = tuned(kind)
    assert results == read_json(run / "results.json", "")
    assert (results["task"], load_run(run).task) == (kind, kind)
    metric = {"regression": "pearson", "tokens": "f1", "multilabel": "micro_f1"}.get(
        kind
    )
    if metric:
        assert results["eval"][metric] > 0.7
    else:
        best = "accuracy" if kind == "classification" else "exact_match"
        assert results["eval"][best] > results["constant"][best] + 0.1
    assert ("confusion" in results) == (kind == "classification")
    labelled = ("classification", "multilabel", "tokens")
    assert ("per_label" in results) == (kind in labelled)
    if kind == "tokens":
        [row] = results["per_label"]
        assert (row["label"], row["f1"]) == ("EARLY", results["eval"]["f1"])
    assert len(results["hardest"]) == 20
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_judged_again_to_the_same_scores(tuned, kind):
    run, cfg, results = tuned(kind)
    # One device here, eight there: sums in another order.
    assert evaluate_run(run, None) == pytest.approx(results["eval"], rel=1e-4)
    assert evaluate_run(run, cfg.task.dev) == evaluate_run(run, None)


def test_judging_on_what_was_trained_on_is_told(tuned, tmp_path, capsys):
    run, cfg, _ = tuned("classification")
    header, *rows = cfg.task.train.read_text().splitlines(keepends=True)
    (tmp_path / "test.tsv").write_text(f"{header}{rows[7]}a new text\tTrue\n")
    evaluate_run(run, tmp_path / "test.tsv")
    assert "1 of these 2 examples are trained on too" in capsys.readouterr().err


def test_held_out_examples_are_judged_once_at_the_end(tuned):
    run, _, _ = tuned("classification")
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert sum(line["kind"] == "eval" for line in lines) == 1


def test_predictions_have_the_form_of_their_task(tuned, capsys):
    letter, window = "letter music " * 3, "window river " * 3
    run, _, results = tuned("classification")
    found = Predictor(run)([(letter,), (window,)])
    assert [x["label"] for x in found] == ["True", "False"]
    assert set(found[0]["probabilities"]) == set(results["labels"])
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1.0)
    capsys.readouterr()
    cli.main(["predict", str(run), letter, "--top", "1"])
    share = found[0]["probabilities"]["True"]
    assert capsys.readouterr().out == f"True {share:.1%}  |  {letter}\n"

    found = Predictor(tuned("regression")[0])([(letter,), (window,)])
    assert found[0]["score"] - found[1]["score"] > 1.0

    [found] = Predictor(tuned("tokens")[0])([("window letter river",)])
    assert found["words"] == ["window", "letter", "river"]
    early = [
        (word, share)
        for word, tag, share in zip(
            found["words"], found["tags"], found["probabilities"], strict=True
        )
        if tag == "B-EARLY"
    ]
    assert [(x["text"], x["probability"]) for x in found["entities"]] == early
    for entity in found["entities"]:
        said = "window letter river"[entity["start"] : entity["end"]]
        assert (entity["type"], entity["text"]) == ("EARLY", said)

    run, _, results = tuned("spans")
    # Some of the passages have no early word, and so no answer.
    assert set(results["fitted"]) == {"no_answer_threshold"}
    threshold = results["eval"]["no_answer_threshold"]
    assert threshold == results["fitted"]["no_answer_threshold"]
    passages = "window stone letter", "window stone river", "letter window letter"
    for passage in passages:
        [found] = Predictor(run)([("river", passage)])
        best = next(x for x in found["nbest"] if x["answer"])
        ahead = found["no_answer_score"] - best["score"] > threshold
        assert found["answer"] == ("" if ahead else best["answer"])
        assert best["answer"] == passage[best["start"] : best["end"]]


@pytest.mark.slow(ci=False)
def test_a_text_has_the_labels_that_are_likely(tuned):
    [found] = Predictor(tuned("multilabel")[0])([("letter music " * 3,)])
    assert found["labels"] == ["early"]
    assert found["probabilities"]["early"] > 0.5 > found["probabilities"]["late"]


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        ("classification", [("a", "b")], r"this run takes 1 non-empty"),
        ("spans", [("a",)], r"this run takes 2 non-empty"),
        ("tokens", [(" ",)], r"takes 1 non-empty"),
        ("tokens", [], "No text given"),
    ],
)
def test_texts_of_another_form_are_refused(tuned, kind, texts, message):
    with pytest.raises(ValueError, match=message):
        Predictor(tuned(kind)[0])(texts)


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", ["classification", "tokens", "spans"])
def test_lengths_of_rows_change_no_logit(tuned, kind, monkeypatch):
    run, cfg, _ = tuned(kind)
    predictor = Predictor(run, batch_size=8)
    encoded = predictor.encode(
        predictor.task.read(cfg.task.dev, cfg.task, "validation")
    )
    monkeypatch.setattr(predictor._logits, "_price", 0.0)
    found = predictor.logits(encoded)
    assert len(predictor._logits._lengths) > 1
    monkeypatch.setattr(predictor._logits, "_price", np.inf)
    predictor._logits._lengths.clear()  # else it goes on with those that are compiled
    expected = predictor.logits(encoded)
    real = encoded.input_mask > 0 if found.ndim == 3 else ...
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.slow(ci=False)
def test_batches_by_length_go_on_exactly(tuned, encoder, tmp_path, capsys, monkeypatch):
    """Short and long texts, stopped amid an epoch: the same weights as in one go."""
    folder, _ = encoder
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(WORDS, n)) for n in rng.choice([2, 12, 60], 96)]
    content = "".join(f"{line};{is_early(line)}\n" for line in lines)
    (folder / "mixed.csv").write_text(f"text;label\n{content}")
    task = TaskConfig(train=folder / "mixed.csv", dev=folder / "mixed.csv")
    cfg = dataclasses.replace(
        tuned("classification")[1], task=task, num_epochs=2, batch_size=16
    )
    monkeypatch.setattr(logits, "_COMPILE_FLOPS", 0.0)
    finetune(cfg, tmp_path / "whole")
    said = capsys.readouterr().out
    assert "96 examples of" in said
    assert "fields between semicolons; text from 'text' (by its name)" in said
    assert "classes: False (" in said
    shown = r"96 rows, filled up to [\d, ]+ or 48 tokens: \d+% padding; \d+ texts lost"
    assert re.search(shown, said), said
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_must_stop", lambda self: self.done >= 4)
        with pytest.raises(InterruptedRunError):
            finetune(cfg, tmp_path / "parts")
    finetune(cfg, tmp_path / "parts")
    whole, parts = (
        (tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]
        for name in ("whole", "parts")
    )
    assert json.loads(whole) == json.loads(parts)
    # Found again from any working directory, and only as it was.
    monkeypatch.chdir(tmp_path)
    assert load_run_config(tmp_path / "whole").task.text == ("text",)
    (folder / "mixed.csv").write_text(f"text;label\n{content}new;True\n")
    with pytest.raises(ValueError, match="or the file has changed since"):
        evaluate_run(tmp_path / "whole", None)


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("tokens", "label", "mark", "--label 'mark' is no column of"),
        ("tokens", "text", ("1", "2"), "takes the column of the words alone"),
        ("tokens", "delimiter", ";", "delimiter=';' would be ignored"),
        ("spans", "label", "mark", "label='mark' would be ignored: --task spans"),
    ],
)
def test_columns_of_a_file_without_columns_are_refused(
    tuned, kind, field, value, message
):
    run, cfg, _ = tuned(kind)
    task = dataclasses.replace(cfg.task, **{field: value})
    with pytest.raises(ValueError, match=message):
        finetune(dataclasses.replace(cfg, task=task), run)


def test_settings_of_windows_are_for_tasks_that_have_them():
    with pytest.raises(ValueError, match="max_answer_tokens=3 would be ignored"):
        TASKS["tokens"].configured(FinetuneConfig(max_answer_tokens=3))
    with pytest.raises(ValueError, match="stride=0 must be greater than 0"):
        FinetuneConfig(stride=0)
    words = TASKS["tokens"].configured(FinetuneConfig(stride=64))
    with pytest.raises(
        ValueError, match="stride=64 would leave gaps between rows of 64"
    ):
        words.encode(None, words.unlabelled([("a b",)]), ("O",), 64)


@pytest.mark.slow(ci=False)
def test_a_run_that_goes_on_needs_its_source_no_more(tuned, tmp_path, monkeypatch):
    source, cfg, _ = tuned("classification")
    shutil.copytree(source, tmp_path / "source")
    cfg = dataclasses.replace(
        cfg, checkpoint=tmp_path / "source", from_scratch=False, num_epochs=1
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_must_stop", lambda self: self.done >= 3)
        with pytest.raises(InterruptedRunError, match="stopped at step 3"):
            finetune(cfg, tmp_path / "run")
    origin = load_run(tmp_path / "run").encoder
    assert (origin["run"], origin["step"]) == (str(tmp_path / "source"), 64)
    # Whoever restores it now fails.
    shutil.rmtree(tmp_path / "source" / "checkpoints")
    results = finetune(cfg, tmp_path / "run")
    assert (results["step"], results["encoder"]) == (8, origin)
    assert finetune(cfg, tmp_path / "run") == results


def test_another_task_is_another_run(tuned):
    run, cfg, _ = tuned("regression")
    other = dataclasses.replace(cfg.task, kind="classification")
    with pytest.raises(ValueError, match="begun with another task"):
        finetune(dataclasses.replace(cfg, task=other), run)


@pytest.mark.slow(ci=False)
def test_a_sample_knows_all_labels(tuned, encoder):
    folder, _ = encoder
    _, cfg, _ = tuned("classification")
    one = dataclasses.replace(cfg.task, max_train=1)
    some = dataclasses.replace(cfg, task=one, num_epochs=1)
    results = finetune(some, folder / "one")
    assert (results["num_train"], results["labels"]) == (1, ["False", "True"])


def test_baselines_are_those_of_the_task(tuned, tmp_path):
    found = baselines(tuned("classification")[1].task, tmp_path / "baselines")
    assert set(found["baselines"]) == {"majority", "tfidf_logistic_regression"}
    assert found["baselines"]["tfidf_logistic_regression"]["accuracy"] > 0.8
    unread = TaskConfig(kind="regression", train=tmp_path / "unread.tsv", dev=0.1)
    with pytest.raises(ValueError, match="task 'regression' has no baselines"):
        baselines(unread, tmp_path / "none")


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_takes_each_task(tuned, tmp_path, kind, hf, silent):
    run, _, _ = tuned(kind)
    said = export_run(run, tmp_path / "hf", "huggingface")
    assert "loaded back by transformers" in said
    config = json.loads((tmp_path / "hf/config.json").read_text())
    architectures = {
        "tokens": "BertForTokenClassification",
        "spans": "BertForQuestionAnswering",
    }
    expected = architectures.get(kind, "BertForSequenceClassification")
    assert config["architectures"] == [expected]
    assert config.get("problem_type") == {
        "classification": "single_label_classification",
        "multilabel": "multi_label_classification",
        "regression": "regression",
    }.get(kind)


def test_a_regression_is_one_for_a_pipeline_too(tuned, tmp_path, hf, silent):
    run, _, _ = tuned("regression")
    export_run(run, tmp_path / "hf", "huggingface")
    texts = ["stone letter music", "window"]
    ours = [found["score"] for found in Predictor(run)([(text,) for text in texts])]
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "hf")
    pipe = hf.pipeline("text-classification", model=model, tokenizer=tokenizer)
    # Without an activation, since the config says that it is a regression.
    theirs = [found["score"] for found in pipe(texts)]
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
