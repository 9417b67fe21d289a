"""Fine-tuning goes on with the head of a run whose task and outputs are the same."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from exchange_models import make_tokenizer
from random_runs import random_run
from small_pretraining import one_device  # noqa: F401

from bert_jax import cli
from bert_jax.config import (
    FinetuneConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    SweepConfig,
    TaskConfig,
)
from bert_jax.train.finetune import finetune
from bert_jax.train.initial import ENCODER, load_params, start_encoder
from bert_jax.train.mesh import make_mesh
from bert_jax.train.runs.run import load_run
from bert_jax.train.sweeps.sweep import sweep

TASKS = ["classification", "tokens", "spans", "choice"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """make(task): a run with random weights."""
    folder, tokenizer = tmp_path_factory.mktemp("runs"), make_tokenizer("wordpiece")
    return {task: random_run(folder / task, tokenizer, task) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_outputs_keep_their_weights_in_another_order(runs, task):
    mesh, run = make_mesh(MeshConfig(), jax.devices()[:1]), runs[task]
    before = load_params(run, mesh)
    labels = before.info.labels[::-1]
    new = dataclasses.replace(before.info, labels=labels)
    start = start_encoder(run, mesh, before.params, new=new)
    assert "its head too" in start.describe()
    assert start.params.keys() == before.params.keys()
    [name] = before.params.keys() - {*ENCODER}
    for part, old in before.params[name].items():
        turned = old[..., ::-1] if task != "choice" else old
        np.testing.assert_array_equal(start.params[name][part], turned)
    origin = start_encoder(run, mesh, before.params).origin
    assert start.origin == origin


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (
            {"labels": ("bad", "fair")},
            "; a new head, since the examples lack good and also have fair",
        ),
        ({"task": "multilabel"}, ""),
        ({"labels": ()}, ""),
    ],
)
def test_other_outputs_get_a_fresh_head(runs, changes, note):
    run = runs["classification"]
    new = dataclasses.replace(load_run(run), **changes)
    start = start_encoder(
        run, make_mesh(MeshConfig()), ["embed", "classifier"], new=new
    )
    assert start.head == note
    assert list(start.params) == ["embed"]


def write(path, labels):
    words = itertools.cycle(["the river", "a stone and the river", "the window"])
    lines = [f"{text}\t{label}" for text, label in zip(words, labels, strict=False)]
    path.write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    return path


def settings(run, data):
    return FinetuneConfig(
        checkpoint=run,
        task=TaskConfig(train=data, dev=data),
        # At this rate nothing changes, so that the scores are those of the checkpoint.
        optimizer=OptimizerConfig(learning_rate=1e-9, warmup_steps=0.1),
        loop=LoopConfig(eval_every_steps=0),
        num_epochs=1,
    )


def test_a_run_goes_on_from_the_scores_of_its_checkpoint(runs, tmp_path, capsys):
    run, data = runs["classification"], write(tmp_path / "a.tsv", ["good", "bad"] * 6)
    cli.main(["evaluate", str(run), str(data)])
    [loss] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("loss: ")]
    loss = pytest.approx(float(loss.split()[1]), abs=1e-4)
    cfg = settings(run, data)

    assert finetune(cfg, tmp_path / "one")["eval"]["loss"] == loss
    out = capsys.readouterr().out
    assert "its head too, which has the same outputs" in out
    assert "knows nothing" not in out

    grid = SweepConfig(seeds=(1, 2), at_once=2)
    found = sweep(grid, cfg, tmp_path / "sweep")["runs"]
    assert [x["eval"]["loss"] for x in found] == [loss, loss]
    assert capsys.readouterr().out.count("its head too") == 1


def test_another_class_makes_another_head(runs, tmp_path, capsys):
    data = write(tmp_path / "a.tsv", ["good", "bad", "fair"] * 4)
    finetune(settings(runs["classification"], data), tmp_path / "one")
    out = capsys.readouterr().out
    assert "; a new head, since the examples also have fair" in out
    assert "a head that knows nothing has about 1.099" in out
