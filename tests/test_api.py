"""The Python interface: `import bert_jax`, and what it offers over the commands."""

import concurrent.futures
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from exchange_models import make_tokenizer
from random_runs import random_run

import bert_jax
from bert_jax import api, cli
from bert_jax.batch import PretrainBatch
from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.data.labelled.given_texts import tuples_of
from bert_jax.report.page import write_report


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("api"), make_tokenizer("wordpiece")
    random_run(folder / "encoder", tokenizer)
    random_run(folder / "sentiment", tokenizer, "classification")
    return folder


def test_nothing_heavy_is_imported_before_it_is_used():
    code = (
        "import sys, bert_jax; from bert_jax import cli; cli.main(['--help']); "
        "heavy = {'jax', 'numpy', 'tyro', 'flax', 'asyncio'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'load' in dir(bert_jax)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert bert_jax.load.__module__ == "bert_jax.api"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        bert_jax.lod  # noqa: B018


class _Table:
    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"text": "a river"},
            "The texts are of type dict; expected one string, or a list",
        ),
        (_Table(), "The texts are of type _Table; .* pass a column as a list"),
        (b"a river", "The texts are of type bytes"),
        (5, "The texts are of type int"),
        (["a river", None], "Text 2 is None; expected a string, or a tuple of strings"),
        ([{"text": "a river"}], "Text 1 is {'text': 'a river'}; expected a string"),
        (
            [("a river", float("nan"))],
            r"Text 1 is \('a river', nan\); expected a string",
        ),
        ([b"a river"], "Text 1 is b'a river'; expected a string"),
        ({"a river", "a stone"}, "The texts are of type set"),
        (["a river", "a \ud800"], r"Text 2 holds half of a character \('\\ud800'\)"),
    ],
)
def test_names_of_columns_are_not_taken_for_texts(runs, texts, message):
    model = bert_jax.load(runs / "sentiment")
    for take in (model.predict, model.embed, model.encode):
        with pytest.raises(ValueError, match=message):
            take(texts)


@pytest.mark.parametrize("wrong", [{"to": "torch"}, {"to": "onnx", "quantize": "int4"}])
def test_an_export_in_an_unknown_form_is_refused(runs, tmp_path, wrong):
    (name, given) = [*wrong.items()][-1]
    with pytest.raises(ValueError, match=f"{name}='{given}' is not one of "):
        bert_jax.load(runs / "sentiment").export(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("export", {"step": "3"}, "step='3' is a str; expected int"),
        ("export", {"mlm_only": "no"}, "mlm_only='no' is a str; expected bool"),
        (
            "export",
            {"hidden_states": "no"},
            "hidden_states='no' is a str; expected bool",
        ),
        ("embed", {"normalise": "no"}, "normalise='no' is a str; expected bool"),
        ("embed", {"pooling": ["mean"]}, r"pooling=\['mean'\] is a list; expected str"),
    ],
)
def test_options_of_another_type_are_refused(runs, tmp_path, name, wrong, message):
    method = getattr(bert_jax.load(runs / "encoder"), name)
    with pytest.raises(ValueError, match=message):
        method(str(tmp_path / "out"), **wrong)
    assert not (tmp_path / "out").exists()


def test_a_pair_has_no_vector(runs):
    with pytest.raises(ValueError, match=r"Text 2 is \('a', 'b'\); a vector is of one"):
        bert_jax.load(runs / "sentiment").embed(["a", ("a", "b")])


def test_another_process_reads_the_run_itself(runs):
    model = bert_jax.load(runs / "sentiment")
    [before] = model.predict(["a river"])
    copy = pickle.loads(pickle.dumps(model))
    assert copy.run == model.run
    assert "_predictor" not in vars(copy)
    assert copy.predict(["a river"]) == [before]


@pytest.mark.parametrize(
    "texts",
    ["a", ("a",), np.array(["a"]), (x for x in ["a"]), [("a",)], np.array([["a"]])],
)
def test_texts_may_be_any_list_of_strings(texts):
    assert tuples_of(texts) == [("a",)]


@pytest.mark.slow(ci=False)
def test_predictions_are_those_of_the_command(runs, tmp_path):
    texts = ["a river", "the stone and the window"]
    found = bert_jax.load(runs / "sentiment").predict(texts)
    output = tmp_path / "out.jsonl"
    cli.main(["predict", str(runs / "sentiment"), *texts, "--output", str(output)])
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert lines == [{"text": text} | x for text, x in zip(texts, found, strict=True)]
    assert [
        line["label"] for line in bert_jax.load(runs / "sentiment").predict(texts[0])
    ] == [found[0]["label"]]


@pytest.mark.slow(ci=False)
def test_masks_are_filled_and_vectors_made(runs):
    model = bert_jax.load(str(runs / "encoder"))
    [filled] = model.fill_mask("a [MASK] river.", top=2)
    assert len(filled["masks"][0]) == 2
    assert model.fill_mask("a [MASK] river.", top=np.int64(2)) == [filled]
    with pytest.raises(ValueError, match="top=0 is no number from 1 to"):
        model.fill_mask("a [MASK] river.", top=0)
    for wrong in ("3", [3], True):
        with pytest.raises(ValueError, match=r"top=.* expected int or integer"):
            model.fill_mask("a [MASK] river.", top=wrong)
    vectors = model.embed(["a river", "stone"], normalise=True)
    assert vectors.shape == (2, model.config.hidden_size)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="is a pretrain run; expected a finetune run"):
        model.predict("a river")
    assert "masked words" in repr(model)


def test_the_mean_of_what_encode_gives_is_what_embed_gives(runs):
    """Float32, other batches of rows: 2e-6 is twice the largest difference seen."""
    texts = ["a river", "stone", "the window and the music of the river"]
    model = bert_jax.load(runs / "encoder")
    encoded = model.encode(texts)
    assert encoded[1].pieces[0] == "[CLS]"
    assert encoded[1].pieces[-1] == "[SEP]"
    for text in encoded:
        assert text.hidden.shape == (len(text.ids), model.config.hidden_size)
        assert [model.tokenizer.pieces[x] for x in text.ids] == text.pieces
    means = [text.hidden.mean(axis=0) for text in encoded]
    np.testing.assert_allclose(means, model.embed(texts, pooling="mean"), atol=2e-6)
    [pair] = model.encode([("a river", "stone")])
    assert pair.pieces.count("[SEP]") == 2
    with pytest.raises(ValueError, match="mixed"):
        model.encode(["a", ("a", "b")])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("load", [None], "source=None is a NoneType; expected str or PathLike"),
        ("open_dataset", [{}], "directory={} is a dict; expected str or PathLike"),
        (
            "prepare",
            [5, "t", "o"],
            "source=5 is a int; expected str or PathLike or Seq",
        ),
        ("prepare", [["a", 5], "t", "o"], "source=5 is a int; expected str or PathL"),
        ("prepare", ["a", "t", None], "output=None is a NoneType; expected str or"),
        ("prepare", ["a", "t", "o", {}], "options={} is a dict; expected PrepareOpt"),
        ("pretrain", [{"num_steps": 3}, "o"], "cfg={'num_steps': 3} is a dict; expec"),
        ("finetune", [PretrainConfig(), "o"], r"is a PretrainConfig; expected Fine"),
        ("pretrain", [PretrainConfig(), None], "output=None is a NoneType; expected"),
    ],
)
def test_arguments_of_another_type_are_refused(name, args, message):
    with pytest.raises(ValueError, match=message):
        getattr(bert_jax, name)(*args)


def test_a_name_of_the_hub_is_no_directory():
    with pytest.raises(FileNotFoundError, match="`hf download NAME --local-dir DIR`"):
        bert_jax.load("google-bert/bert-base-uncased")


def test_a_model_is_the_same_wherever_the_process_goes(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs)
    model = bert_jax.load("encoder")
    monkeypatch.chdir(tmp_path)
    assert model.embed("a river").shape == (1, model.config.hidden_size)


def test_a_report_says_no_files_of_a_run_that_has_none(runs, tmp_path):
    [page, *_] = write_report(
        tmp_path, finetunes=[runs / "sentiment"], title="An import"
    )
    said = page.read_text(encoding="utf-8")
    assert "An import" in said
    assert "Training:" not in said
    assert "Held out:" not in said


def test_a_run_that_has_gone_is_said_to_be_gone(runs, tmp_path):
    model = bert_jax.load(shutil.copytree(runs / "encoder", tmp_path / "encoder"))
    (tmp_path / "encoder").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="encoder is not a run directory"):
        print(model.tokenizer)


@pytest.mark.slow(ci=False)
def test_a_script_that_prepares_at_its_top_is_told_so(dataset, tmp_path):
    (tmp_path / "a").write_text("The river.\n\n" * 300)
    (tmp_path / "b").write_text("The stone.\n\n" * 300)
    call = (
        f"{[f'{tmp_path}/*']}, {str(dataset / 'tokenizer')!r}, {str(tmp_path / 'o')!r}"
    )
    script = tmp_path.with_name("script.py")
    script.write_text(f"import bert_jax\nbert_jax.prepare({call}, num_workers=2)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert 'under `if __name__ == "__main__":`' in done.stderr
    assert "is being written by another process" not in done.stderr


def test_batches_are_numpy_and_begin_anywhere(dataset):
    rows = DataConfig(sequence_length=32)
    some = {"batch_size": 4, "num_steps": 5}
    found = list(bert_jax.batches(dataset, rows, **some))
    assert len(found) == 5
    assert isinstance(found[0], PretrainBatch)
    assert {type(x) for x in found[0]} == {np.ndarray}
    assert found[0].input_ids.shape == (4, 32)
    late = list(bert_jax.batches(dataset, rows, **some, first_step=3))
    for here, there in zip(late, found[3:], strict=True):
        for x, y in zip(here, there, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be greater than 0"),
        ({"batch_size": "4"}, "batch_size='4' is a str; expected int"),
        ({"batch_size": 4.0}, "batch_size=4.0 is a float; expected int"),
        ({"num_steps": None}, "num_steps=None is a NoneType; expected int"),
        ({"seed": -1}, "seed=-1 is not in"),
        ({"first_step": -1}, "first_step=-1 is negative"),
        ({"first_step": 0.5}, "first_step=0.5 is a float; expected int"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(dataset, fields, message):
    with pytest.raises(ValueError, match=message):
        bert_jax.batches(dataset, **{"batch_size": 4, "num_steps": 5, **fields})


def test_runs_are_made_by_functions_over_the_settings(dataset, tmp_path, monkeypatch):
    """The commands' own functions get settled settings; they are tried elsewhere."""

    seen = {}
    monkeypatch.setattr(
        api.pretraining, "pretrain", lambda cfg, run: seen.update(cfg=cfg, run=run)
    )
    cfg = PretrainConfig(data=DataConfig(dataset=dataset), num_steps=3)
    bert_jax.pretrain(cfg, str(tmp_path / "run"))
    assert seen["cfg"].model.vocab_size == 44  # the dataset's
    assert seen["run"] == tmp_path / "run"
    monkeypatch.setattr(
        api.finetuning, "finetune", lambda cfg, run: seen.update(cfg=cfg, run=run)
    )
    bert_jax.finetune(FinetuneConfig(task=TaskConfig()), tmp_path / "tuned")
    assert seen["run"] == tmp_path / "tuned"


def test_settings_that_are_no_choice_are_refused(dataset, tmp_path):
    """Python takes any word; a schedule without a branch of its own would be linear."""
    message = r"PretrainConfig\.data={} is a dict; expected DataConfig"
    with pytest.raises(ValueError, match=message):
        PretrainConfig(data={})
    message = r"OptimizerConfig\.schedule='cosin' is not one of"
    with pytest.raises(ValueError, match=message):
        bert_jax.pretrain(
            PretrainConfig(optimizer=OptimizerConfig(schedule="cosin")),
            tmp_path / "run",
        )
    with pytest.raises(ValueError, match=message):
        bert_jax.finetune(
            FinetuneConfig(optimizer=OptimizerConfig(schedule="cosin")),
            tmp_path / "run",
        )
    with pytest.raises(ValueError, match="layout='pack' is not one of"):
        bert_jax.batches(dataset, DataConfig(layout="pack"), batch_size=4, num_steps=1)
    assert not (tmp_path / "run").exists()


def test_a_model_of_others_is_imported_once(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = bert_jax.load(runs / "encoder")
    model.export(tmp_path / "hf")
    capsys.readouterr()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, _ = pool.map(bert_jax.load, [tmp_path / "hf"] * 2)
    assert capsys.readouterr().out.count("\nnot used: ") == 1  # what `import` says
    assert first.run.parent == tmp_path / "bert_jax" / "imported"
    written = (first.run / "run.json").stat().st_mtime_ns
    again = bert_jax.load(tmp_path / "hf")
    assert (again.run / "run.json").stat().st_mtime_ns == written
    text = "a [MASK] river."
    here, there = model.fill_mask(text)[0], again.fill_mask(text)[0]
    assert here["filled"] == there["filled"]
