"""Models that transformers saved, read back: every tensor, setting and head arrives."""

import dataclasses
import functools
import json
import re
import shutil
import sys

import pytest
import reference
from huggingface_models import (
    DECODER,
    PIECES,
    SIZES,
    WORDS,
    assert_equal,
    edit_json,
    make_random,
    rename,
    save,
    save_bin,
    state_of,
)

from bert_jax.config import DropoutConfig
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.read_huggingface import read_huggingface
from bert_jax.exchange.tensors import from_tensors, to_tensors
from bert_jax.exchange.write_huggingface import write_huggingface


@pytest.fixture(scope="module")
def make_model(hf):
    """make_model("BertForMaskedLM", **config): random everywhere, norms included."""
    return functools.partial(make_random, hf)


@pytest.fixture(scope="module")
def whole(make_model, tmp_path_factory):
    """A BertForPreTraining, saved; tests copy it before they change it."""
    return save(make_model("BertForPreTraining"), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


CLASSES = {
    "BertForPreTraining": "pretraining",
    "BertForMaskedLM": "pretraining",
    "BertForNextSentencePrediction": "pretraining",
    "BertModel": "pretraining",
    "BertForSequenceClassification": "classifier",
    "BertForTokenClassification": "tokens",
    "BertForQuestionAnswering": "spans",
}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_arrives_bitwise_and_goes_back(kind, make_model, tmp_path, hf):
    model = make_model(kind, num_labels=2 if "Question" in kind else 3)
    source = read_huggingface(save(model, tmp_path / "theirs"))
    expected = state_of(model)
    if kind == "BertModel":
        expected = {f"bert.{name}": value for name, value in expected.items()}
    assert_equal(source.tensors, expected)
    assert source.head == CLASSES[kind]
    labelled = source.head in ("classifier", "tokens")
    assert source.labels == (("LABEL_0", "LABEL_1", "LABEL_2") if labelled else None)

    read = from_tensors(
        source.model, source.tensors, BERT.rows(source.model, source.head)
    )
    assert sorted(read.used) == sorted(expected)
    if kind not in ("BertForPreTraining", *list(CLASSES)[4:]):
        assert read.new, "the heads that this class has not"
        return
    assert read.new == ()
    write_huggingface(
        PortableModel(
            source.model,
            read.params,
            source.head,
            source.tokenizer,
            labels=source.labels,
        ),
        tmp_path / "ours",
    )
    back = getattr(hf, kind).from_pretrained(tmp_path / "ours")
    assert_equal(state_of(back), expected)
    for key in ("hidden_act", "layer_norm_eps", *SIZES):
        assert getattr(back.config, key) == getattr(model.config, key)


def test_a_bare_encoder_without_pooler_says_what_is_missing(make_model, tmp_path):
    model = make_model("BertModel", False)  # add_pooling_layer
    source = read_huggingface(save(model, tmp_path))
    read = from_tensors(
        source.model, source.tensors, BERT.rows(source.model, "pretraining")
    )
    assert sorted(read.used) == sorted(f"bert.{name}" for name in state_of(model))
    assert {path.split("/")[0] for path in read.new} == {"pooler", "mlm", "nsp"}


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("head", ["pretraining", "classifier", "tokens", "spans"])
def test_ours_come_back_bitwise(tiny, random_params, tmp_path, head, gelu):
    cfg = dataclasses.replace(
        *(tiny,),
        gelu=gelu,
        num_segments=3,
        layer_norm_eps=1e-7,
        init_std=0.03,
        max_positions=19,
    )
    shapes = reference.classifier_shapes(cfg, 2)
    shapes[head] = shapes.pop("classifier")
    if head in ("tokens", "spans"):
        del shapes["pooler"]
    params = random_params(cfg)
    if head != "pretraining":
        params = reference.random_params(shapes, seed=1)
    tensors = to_tensors(cfg, params, BERT.rows(cfg, head))
    labels = ("no", "yes") if head in ("classifier", "tokens") else None
    tokenizer = WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=False)
    folder = tmp_path / "export"
    dropout = DropoutConfig(hidden=0.25, attention=0.0)
    write_huggingface(
        PortableModel(cfg, params, head, tokenizer, dropout=dropout, labels=labels),
        folder,
    )
    source = read_huggingface(folder)
    assert source.dropout == dropout
    assert_equal(source.tensors, tensors)
    assert source.model == cfg
    assert source.head == head
    assert source.labels == labels
    assert source.tokenizer.sha256 == tokenizer.sha256
    assert source.notes == ()
    assert str(folder) in source.origin


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_every_file_format_gives_the_same(
    make_model, whole, tmp_path, hf, kind, shards
):
    model = make_model("BertForPreTraining")
    expected = read_huggingface(whole).tensors
    if kind == "safetensors":
        save(model, tmp_path, **({"max_shard_size": "20KB"} if shards else {}))
    else:
        new = {"_use_new_zipfile_serialization": kind == "zip"}
        save_bin(model, tmp_path, **new)
        if shards:
            state = model.state_dict()
            (tmp_path / "pytorch_model.bin").unlink()
            names = {name: f"part-{n % 3}.bin" for n, name in enumerate(state)}
            for part in set(names.values()):
                some = {name: state[name] for name in names if names[name] == part}
                hf.torch.save(some, tmp_path / part, **new)
            index = tmp_path / "pytorch_model.bin.index.json"
            index.write_text(json.dumps({"weight_map": names}))
    files = {path.suffix for path in tmp_path.iterdir()}
    assert (".safetensors" in files) == (kind == "safetensors")
    source = read_huggingface(tmp_path)
    assert_equal(source.tensors, expected)
    assert ("index" in source.origin) == shards
    tied = [note for note in source.notes if DECODER in note]
    assert len(tied) == (0 if kind == "safetensors" else 2)


def test_safetensors_need_no_torch(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert read_huggingface(folder).head == "pretraining"


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_other_floats_become_float32(make_model, tmp_path, hf, kind, form):
    dtype = getattr(hf.torch, kind)
    model = make_model("BertForPreTraining").to(dtype)
    if kind == "float64":
        for parameter in model.parameters():
            parameter.data.mul_(1 + 1e-12)
    (save if form == "safetensors" else save_bin)(model, tmp_path)
    source = read_huggingface(tmp_path)
    expected = {
        name: value.to(hf.torch.float32).numpy()
        for name, value in model.state_dict().items()
        if not name.startswith(DECODER)
    }
    assert_equal(source.tensors, expected)
    (note,) = (note for note in source.notes if kind in note)
    assert ("rounded" if kind == "float64" else "exactly") in note


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "0.auto_model."])
@pytest.mark.parametrize("old", [False, True])
def test_prefixes_and_old_names_are_normalised(
    make_model, tmp_path, prefix, old, whole
):
    def change(name):
        if old:
            name = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name)
            name = re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)
        return prefix + name

    save_bin(make_model("BertForPreTraining"), tmp_path, rename(change))
    source = read_huggingface(tmp_path)
    assert_equal(source.tensors, read_huggingface(whole).tensors)
    begins = f"begin with '{prefix}bert.'"
    assert any(begins in note for note in source.notes) == bool(prefix)
    # Two norms of three layers, one of the embeddings, one of the MLM head.
    assert any("16 tensors" in note for note in source.notes) == old


def test_what_the_table_does_not_know_keeps_its_name(make_model, tmp_path, hf):
    extra = {
        "adapter.gamma": hf.torch.ones(3),
        "bert.embeddings.counts": hf.torch.arange(4),
        "bert.embeddings.position_ids": hf.torch.arange(24)[None],
    }
    save_bin(make_model("BertForPreTraining"), tmp_path, lambda s: {**s, **extra})
    source = read_huggingface(tmp_path)
    read = from_tensors(
        source.model, source.tensors, BERT.rows(source.model, "pretraining")
    )
    unused = set(source.tensors) - set(read.used)
    assert unused == {"adapter.gamma", "bert.embeddings.counts"}
    assert any("position_ids" in note for note in source.notes)


def test_a_decoder_can_stand_for_what_it_is_tied_to(make_model, tmp_path, whole):
    """Some writers keep the other one of two tied tensors."""
    gone = (WORDS, "cls.predictions.bias")
    save_bin(
        *(make_model("BertForPreTraining"), tmp_path),
        lambda state: {name: v for name, v in state.items() if name not in gone},
    )
    assert_equal(read_huggingface(tmp_path).tensors, read_huggingface(whole).tensors)


def test_configs_arrive_whole(folder):
    for act, gelu in (
        ("gelu", "exact"),
        ("gelu_python", "exact"),
        ("gelu_new", "tanh"),
        ("gelu_pytorch_tanh", "tanh"),
    ):
        edit_json(folder / "config.json", hidden_act=act)
        assert read_huggingface(folder).model.gelu == gelu
    edit_json(
        folder / "config.json",
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.2,
        model_type=...,
        attention_probs_dropout_prob=0,
        initializer_range=0.01,
        classifier_dropout=0.5,
        pooler_type="first",
        pad_token_id=7,
    )
    source = read_huggingface(folder)
    model = source.model
    assert (model.layer_norm_eps, model.init_std) == (1e-5, 0.01)
    assert source.dropout == DropoutConfig(hidden=0.2, attention=0.0)
    notes = "\n".join(source.notes)
    for word in (
        "model_type",
        "classifier_dropout=0.5",
        "pooler_type",
        "pad_token_id=7",
    ):
        assert word in notes


def test_without_an_architecture_the_tensors_tell_the_head(make_model, tmp_path):
    for kind, head in CLASSES.items():
        folder = save(make_model(kind), tmp_path / kind)
        for given in (..., None, ["MyBert"]):
            edit_json(folder / "config.json", architectures=given)
            source = read_huggingface(folder)
            assert source.head == head
            assert f"a {head} model" in "\n".join(source.notes)
