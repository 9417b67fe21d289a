"""Google's checkpoints that are damaged, ambiguous or beyond its format: refused."""

import dataclasses
import functools
import json
import sys

import numpy as np
import pytest
from google_models import PIECES, google_weights, publish, save_v1, without_padding

from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.families.google_bert import google_rows
from bert_jax.exchange.importing import import_run
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.tensors import from_tensors
from bert_jax.exchange.write_google import write_google


@pytest.fixture(scope="module")
def tokenizer(tiny):
    assert len(PIECES) == tiny.vocab_size
    return WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=True)


@pytest.fixture(scope="module")
def params(tiny, random_params):
    return without_padding(tiny, random_params(tiny))


@pytest.fixture
def make_directory(tf, tiny, tmp_path):
    """make_directory(variables, config={...}) -> a directory as Google publishes it."""
    return functools.partial(publish, tf, tiny, tmp_path)


def test_which_checkpoint_is_meant(tf, tiny, make_directory):
    weights = google_weights(tiny)
    folder = make_directory(None)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        read_google(folder)
    for step in (1000, 2000):
        numbered = weights | {"global_step": np.int64(step)}
        save_v1(tf, folder / f"model.ckpt-{step}", numbered)
    assert read_google(folder / "model.ckpt-1000").step == 1000
    source = read_google(folder)
    assert source.step == 2000
    assert any("2 checkpoints" in note for note in source.notes)
    # A directory that was moved: the state file keeps the old absolute path.
    old = 'model_checkpoint_path: "/gone/model.ckpt-1000"\n'
    (folder / "checkpoint").write_text(old)
    assert read_google(folder).step == 1000
    (folder / "checkpoint").unlink()
    with pytest.raises(ValueError, match=r"2 checkpoints.*model\.ckpt-1000.*give one"):
        read_google(folder)
    with pytest.raises(ValueError, match="no such checkpoint"):
        read_google(folder / "model.ckpt-3000")
    below = folder / "train"
    below.mkdir()
    save_v1(tf, below / "model.ckpt-5", weights | {"global_step": np.int64(5)})
    assert read_google(below).step == 5
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"no vocab\.txt"):
        read_google(below)


def test_damaged_files_are_refused(tf, tiny, make_directory):
    folder = make_directory(google_weights(tiny))
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:50] + bytes([whole[50] ^ 255]) + whole[51:])
    with pytest.raises(ValueError, match="cannot be read"):
        read_google(folder)
    data.write_bytes(whole[:5000])
    with pytest.raises(ValueError, match="cannot be read"):
        read_google(folder)
    data.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        read_google(folder)
    (folder / "bert_model.ckpt.index").write_bytes(b"none")
    with pytest.raises(ValueError, match="damaged"):
        read_google(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"vocab_size": 60}, "61 rows"),
        ({"num_hidden_layers": 2}, "layer_2.*num_hidden_layers=2"),
        ({"num_hidden_groups": 1}, "num_hidden_groups"),
        ({"directionality": "left"}, "directionality='left'"),
        ({"embedding_size": 16}, "embedding_size=16"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"num_attention_heads": 5}, "num_heads"),
        ({"do_lower_case": False}, "disagree"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_configs_that_do_not_fit_are_refused(tiny, make_directory, change, message):
    folder = make_directory(google_weights(tiny), **change)
    with pytest.raises(ValueError, match=message):
        read_google(folder, lowercase=True)


def test_a_config_of_another_width_is_refused(tiny, make_directory):
    source = read_google(make_directory(google_weights(tiny), hidden_size=64))
    with pytest.raises(ValueError, match="config of another model"):
        from_tensors(
            source.model, source.tensors, google_rows(source.model, "pretraining")
        )


def test_casing_is_stated_or_asked_for(tf, tiny, make_directory):
    weights = google_weights(tiny)
    folder = make_directory(weights, "wiki")
    with pytest.raises(ValueError, match=r"--lowercase.*--no-lowercase"):
        read_google(folder)
    assert not read_google(folder, lowercase=False).tokenizer.lowercase
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert read_google(folder).tokenizer.lowercase
    with pytest.raises(ValueError, match="disagree"):
        read_google(folder, lowercase=False)
    cased = make_directory(weights, "multi_cased_L-12")
    source = read_google(cased)
    assert not source.tokenizer.lowercase
    assert any("'multi_cased_L-12'" in note for note in source.notes)
    source = read_google(cased, lowercase=True)
    assert source.tokenizer.lowercase
    assert any("though" in note for note in source.notes)
    capitals = [*PIECES[:-1], "River"]
    folder = make_directory(weights, "uncased_with_capitals", capitals)
    with pytest.raises(ValueError, match="'River'"):
        read_google(folder)
    source = read_google(folder, lowercase=True)
    assert any("'River'" in note for note in source.notes)


def test_what_google_cannot_compute_is_refused(tf, tiny, params, tokenizer, tmp_path):
    def write(cfg=tiny, params=params, tokenizer=tokenizer, **settings):
        write_google(
            PortableModel(cfg, params, "pretraining", tokenizer, **settings),
            tmp_path / "x",
        )

    with pytest.raises(ValueError, match="gelu='exact'"):
        write(dataclasses.replace(tiny, gelu="exact"))
    with pytest.raises(ValueError, match="layer_norm_eps"):
        write(dataclasses.replace(tiny, layer_norm_eps=1e-5))
    with pytest.raises(ValueError, match="pieces"):
        write(
            tokenizer=WordPieceTokenizer("\n".join(PIECES[:9]).encode(), lowercase=True)
        )
    with pytest.raises(ValueError, match="pooler/kernel"):
        write(params={**params, "pooler": {}})
    with pytest.raises(ValueError, match="would be ignored"):
        write(labels=("a", "b"))
    assert not list(tmp_path.iterdir())


def test_without_tensorflow_the_extra_is_named(
    tiny, params, tokenizer, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r"bert_jax\[tf\]"):
        write_google(
            PortableModel(tiny, params, "pretraining", tokenizer), tmp_path / "x"
        )


@pytest.mark.parametrize(
    "name", ["bert/pooler/dense/bias", "bert/pooler/dense/bias/adam_v"]
)
def test_variables_that_are_not_finite_are_refused(
    tiny, make_directory, tmp_path, name
):
    weights = google_weights(tiny)
    slots = {f"{k}/adam_{slot}": x.copy() for k, x in weights.items() for slot in "mv"}
    variables = weights | slots
    variables[name][3] = np.nan
    folder = make_directory(variables)
    with pytest.raises(ValueError, match="1 numbers in the tensor 'bert/pooler/dense/"):
        import_run(folder, tmp_path / "run")


def test_files_about_the_tokenizer_are_read_here_too(tiny, make_directory):
    folder = make_directory(google_weights(tiny))
    read_google(folder)
    path = folder / "tokenizer_config.json"
    for change, message in (
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize=False"),
        ({"do_lower_case": "yes"}, "expected True or False"),
    ):
        path.write_text(json.dumps(change))
        with pytest.raises(ValueError, match=message):
            read_google(folder)
