"""From one file to a score: a dev share, long texts in windows, and what a run keeps."""

import dataclasses
import json
import re

import numpy as np
import pytest
from bare_runs import bare_run
from prepared_corpus import WORDS

from bert_jax import cli
from bert_jax.config import (
    FinetuneConfig,
    TaskConfig,
)
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.runs.run import load_run, load_run_config
from bert_jax.train.task_data import fitting_length, load_task_data
from bert_jax.train.task_files import read_examples
from bert_jax.train.tasks import TASKS


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A run directory with a tokenizer and an architecture of 64 positions."""
    folder = tmp_path_factory.mktemp("texts")
    return bare_run(folder)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A file of 60 documents, a third of them of class "yes", most longer than a row."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("documents") / "all.tsv"
    rows = [
        f"{' '.join(rng.choice(WORDS, rng.integers(5, 60)))}\t{'yes' if n % 3 else 'no'}\n"
        for n in range(60)
    ]
    path.write_text("text\tlabel\n" + "".join(rows))
    return path


def model_of(encoder):
    return load_run(encoder).model


@pytest.mark.slow(ci=False)
def test_one_file_is_enough(encoder, documents, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    flags = (
        *("--train", str(documents), "--dev", "0.2", "--long-texts", "windows"),
        *("--class-weights", "balanced", "--label-smoothing", "0.1"),
        *("--num-epochs", "1", "--batch-size", "16", "--from-scratch"),
    )
    cli.main(["finetune", str(encoder), *flags, "--output", str(output)])
    said = capsys.readouterr().out
    assert "48 of the 60 examples of the file; a share of 0.2 is judged on" in said
    assert "class weights: no 1.5, yes 0.75" in said
    assert re.search(
        r"at most 64 tokens: the most the encoder takes; \d+ texts of 48", said
    )
    assert re.search(r"\d+ texts became several rows, at 64 tokens", said)
    results = json.loads((output / "results.json").read_text())
    assert (results["num_train"], results["num_validation"]) == (48, 12)
    assert np.sum(results["confusion"]) == 12, "examples, not rows"
    assert np.sum(results["confusion"], axis=1).tolist() == [4, 8]
    cfg = load_run_config(output)
    assert (cfg.sequence_length, load_run(output).sequence_length) == (64, 64)
    assert (cfg.task.dev, cfg.task.train) == (0.2, documents)

    monkeypatch.chdir(tmp_path)
    cli.main(["evaluate", str(output)])
    said = capsys.readouterr()
    assert "a share of 0.2, drawn with --draw-seed 0" in said.err
    found = dict(re.findall(r"(\w+): (\S+)", said.out))
    for name, value in results["eval"].items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4, abs=1e-6)
    cli.main(["finetune", str(encoder), *flags, "--output", str(output)])
    assert "nothing to do" in capsys.readouterr().out

    text = " ".join(WORDS * 12)
    [one] = Predictor(output)([(text,)])
    assert sum(one["probabilities"].values()) == pytest.approx(1.0)


def test_without_a_file_to_judge_on_the_share_is_named(encoder, documents):
    cfg = FinetuneConfig(task=TaskConfig(train=documents))
    tokenizer = load_tokenizer(encoder / "tokenizer")
    with pytest.raises(ValueError, match=r"--dev 0\.1 to judge on a random tenth"):
        load_task_data(cfg, tokenizer, model_of(encoder))


def test_windows_train_every_document_once(encoder, documents):
    tokenizer = load_tokenizer(encoder / "tokenizer")
    task = TaskConfig(train=documents, dev=0.2)
    cfg = FinetuneConfig(task=task, sequence_length=16, long_texts="windows")
    data = load_task_data(cfg, tokenizer, model_of(encoder))
    assert len(data.train_rows) > 2 * len(data.train)
    batches = [data.batch(step, 32) for step in range(data.steps_per_epoch)]
    total = sum(float(batch.weights.sum()) for batch in batches)
    assert total == pytest.approx(len(data.train), rel=1e-5)


def test_shots_train_on_a_few_of_each_class(encoder, documents):
    tokenizer = load_tokenizer(encoder / "tokenizer")
    task = TaskConfig(train=documents, dev=0.2, shots=4)
    data = load_task_data(FinetuneConfig(task=task), tokenizer, model_of(encoder))
    assert sorted(data.train.labels) == ["no"] * 4 + ["yes"] * 4
    assert not {*data.train.texts} & {*data.held_out.texts}
    whole = load_task_data(
        FinetuneConfig(task=TaskConfig(train=documents, dev=0.2)),
        tokenizer,
        model_of(encoder),
    )
    assert data.held_out == whole.held_out
    numbers = TaskConfig(train=documents, dev=0.2, shots=4, kind="multilabel")
    assert (
        len(
            load_task_data(
                FinetuneConfig(task=numbers), tokenizer, model_of(encoder)
            ).train
        )
        == 8
    )


def test_a_task_without_classes_has_a_share_but_no_shots(tmp_path):
    path = tmp_path / "x.conll"
    path.write_text("\n".join(f"w{n}\tB-x\nv{n}\tO\n" for n in range(20)))
    task, cfg = TASKS["tokens"], TaskConfig(kind="tokens", train=path, dev=0.25)
    found = read_examples(task, cfg)
    assert (len(found.train), len(found.held_out)) == (15, 5)
    with pytest.raises(ValueError, match=r"--task tokens has no classes.*--max-train"):
        read_examples(task, dataclasses.replace(cfg, shots=2))


@pytest.mark.parametrize(
    ("longest", "positions", "expected"), [(21, 64, 24), (5, 64, 16), (200, 64, 64)]
)
def test_rows_are_as_long_as_nearly_all_texts(
    encoder, longest, positions, expected, capsys
):
    """One text of two hundred is far longer, and would make all rows longer."""
    tokenizer = load_tokenizer(encoder / "tokenizer")
    piece = next(word for word in WORDS if len(tokenizer.encode([word])[0]) == 1)
    sizes = [longest - 2] * 199 + [62]
    texts = tuple((" ".join([piece] * size),) for size in sizes)
    examples = LabelledTexts(texts, ("a", "b") * 100)
    found = fitting_length(
        TASKS["classification"], tokenizer, examples, ("a", "b"), positions
    )
    assert found == expected
    said = capsys.readouterr().out
    assert f"rows have at most {expected} tokens: " in said
    reason = (
        "99% of 200 training examples fit into" if longest < 64 else "199 texts of 200"
    )
    assert reason in said
