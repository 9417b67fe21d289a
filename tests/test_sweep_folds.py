"""Sweeps over folds: how files are cut, and how all folds are judged together."""

import dataclasses
import json
import re

import numpy as np
import pytest
from prepared_corpus import WORDS
from small_pretraining import one_device  # noqa: F401
from small_sweeps import base_settings, quick_runs  # noqa: F401

from bert_jax import cli
from bert_jax.config import (
    SweepConfig,
    TaskConfig,
)
from bert_jax.data.labelled.draws import fold_numbers
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.train.runs.run import load_run, load_run_config
from bert_jax.train.sweeps.compare import compare
from bert_jax.train.sweeps.sweep import sweep
from bert_jax.train.task_files import read_held_out
from bert_jax.train.tasks import task_of


def test_every_example_is_judged_once_over_the_folds(base, quick, tmp_path, capsys):
    task = dataclasses.replace(base.task, dev=None)
    folded = dataclasses.replace(base, task=task)
    grid = SweepConfig(seeds=(0,), folds=2)
    results = sweep(grid, folded, tmp_path / "sweep")
    assert [run["num_validation"] for run in results["runs"]] == [20, 20]
    assert [run["num_train"] for run in results["runs"]] == [20, 20]
    [setting] = results["settings"]
    pooled = setting["out_of_fold"]["by_seed"]["0"]
    # Accuracy is a mean over examples, so that of all folds is the mean of equal folds.
    each = [run["eval"]["accuracy"] for run in results["runs"]]
    assert pooled["accuracy"] == pytest.approx(np.mean(each))
    assert setting["mean"]["accuracy"] == pytest.approx(np.mean(each))
    said = capsys.readouterr().out
    assert re.search(r"^0.001 +1 +all folds, 1 seeds +\d", said, re.M)
    cli.main(["compare", str(tmp_path / "sweep"), str(tmp_path / "sweep")])
    said = capsys.readouterr().out
    assert "all 2 folds together" in said
    assert "40 examples" in said
    run = tmp_path / "sweep" / results["runs"][0]["run"]
    cfg, info = load_run_config(run), load_run(run)
    with pytest.raises(ValueError, match="was judged on one fold of"):
        read_held_out(task_of(cfg), cfg.task, info.data["validation"])
    with pytest.raises(ValueError, match=r"--dev .* would be ignored: with --folds 2"):
        sweep(grid, base, tmp_path / "other")


def unlike_folds(base, folder, kind):
    """Settings of a sweep whose folds differ in more than their texts."""
    words = WORDS[:8]
    if kind == "choice":  # one example has a choice more than the others
        rows = [{"context": w, "choices": ["a", "b"], "label": "B"} for w in words]
        rows[0]["choices"].append("c")
    elif kind == "embeddings":
        rows = [{"anchor": w, "positive": f"a {w}"} for w in words]
    else:  # one question has no answer
        rows = [
            {"context": w, "qas": [{"id": w, "question": "which", "answers": [answer]}]}
            for w in words
            for answer in [{"text": w, "answer_start": 0}]
        ]
        rows[0]["qas"][0] |= {"answers": [], "is_impossible": True}
        rows = [{"data": [{"title": "", "paragraphs": rows}], "version": "v2.0"}]
    suffix = "json" if kind == "spans" else "jsonl"
    file = folder / f"all.{suffix}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dataclasses.replace(base, task=TaskConfig(kind=kind, train=file))


def test_folds_with_fewer_choices_are_judged_together(base, quick, tmp_path):
    cfg = unlike_folds(base, tmp_path, "choice")
    results = sweep(SweepConfig(seeds=(0,), folds=4), cfg, tmp_path / "sweep")
    [setting] = results["settings"]
    pooled = setting["out_of_fold"]["by_seed"]["0"]
    for name in ("accuracy", "loss"):
        each = [run["eval"][name] for run in results["runs"]]
        assert pooled[name] == pytest.approx(np.mean(each))


def test_what_one_fold_alone_has_gets_no_mean(base, quick, tmp_path, capsys):
    cfg = unlike_folds(base, tmp_path, "spans")
    results = sweep(SweepConfig(seeds=(0,), folds=3), cfg, tmp_path / "sweep")
    [setting] = results["settings"]
    score = "unanswerable_accuracy"
    assert sum(score in run["eval"] for run in results["runs"]) == 1
    assert score not in setting["mean"]
    assert score in setting["out_of_fold"]["by_seed"]["0"]
    assert "accuracy of those without" in capsys.readouterr().out


def test_vectors_of_several_encoders_are_not_compared(base, quick, tmp_path):
    cfg = unlike_folds(base, tmp_path, "embeddings")
    output = tmp_path / "sweep"
    [setting] = sweep(SweepConfig(seeds=(0,), folds=3), cfg, output)["settings"]
    assert "mrr" in setting["mean"]
    assert "out_of_fold" not in setting
    with pytest.raises(ValueError, match="each fold are of another encoder"):
        compare(output, output)


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_keep_classes_and_what_belongs_together(seed):
    rng = np.random.default_rng(seed)
    classes = tuple(rng.choice(["a", "b", "c"], 83, p=[0.6, 0.3, 0.1]).tolist())
    examples = LabelledTexts(tuple((f"text {n}",) for n in range(83)), classes)
    folds = fold_numbers(examples, 5, seed, classes)
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    for name in "abc":
        of_class = np.bincount(folds[np.array(classes) == name], minlength=5)
        assert np.ptp(of_class) <= 1
    assert (folds != fold_numbers(examples, 5, seed + 1, classes)).any()
    assert (folds == fold_numbers(examples, 5, seed, classes)).all()
    twice = examples.take(np.repeat(np.arange(83), 2))
    pairs = fold_numbers(twice, 5, seed).reshape(83, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert np.ptp(np.bincount(pairs[:, 0], minlength=5)) <= 1
    with pytest.raises(ValueError, match="--folds 9 needs as many examples"):
        fold_numbers(examples.take(np.arange(5)), 9, seed)
