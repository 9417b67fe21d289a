"""Models that we cannot run, damaged files and pickles that could run code: refused."""

import functools
import json
import os
import shutil
import sys

import pytest
from huggingface_models import (
    DECODER,
    WORDS,
    assert_equal,
    edit_json,
    make_random,
    rename,
    save,
    save_bin,
    state_of,
)

from bert_jax.exchange.importing import import_run
from bert_jax.exchange.read_huggingface import read_huggingface


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


def set_to(name, function):
    return lambda state: {**state, name: function(state)}


def flip_last_bit(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[-1] *= 1 + 2.0**-23
    return tensor


POSITIONS = "bert.embeddings.position_embeddings.weight"
NAME = "bert.encoder.layer.1.output.dense.weight"
EDITS = {
    "untied": (
        set_to(f"{DECODER}.weight", lambda s: flip_last_bit(s[WORDS])),
        r"untied decoder",
    ),
    "other bias": (
        set_to(f"{DECODER}.bias", lambda s: flip_last_bit(s["cls.predictions.bias"])),
        r"decoder\.bias' differs",
    ),
    "twice": (
        set_to(f"module.{NAME}", lambda s: s[NAME]),
        r"'bert\.encoder.*'module\.bert\.encoder.*are both",
    ),
    "two encoders": (
        rename(lambda n: n.replace("bert.embeddings", "other.embeddings")),
        r"\['bert\.', 'other\.'\].*one encoder",
    ),
    "gamma and weight": (
        set_to(
            "bert.embeddings.LayerNorm.gamma",
            lambda s: s["bert.embeddings.LayerNorm.weight"],
        ),
        "are both",
    ),
    "a layer too many": (
        set_to(NAME.replace("1", "3"), lambda s: s[NAME]),
        r"layer\.3.*num_hidden_layers=3",
    ),
    "other positions": (
        set_to(
            "bert.embeddings.position_ids",
            lambda s: s["bert.embeddings.token_type_embeddings.weight"][0].long() + 2,
        ),
        "position_ids' is not 0 to 23",
    ),
    "quantised": (set_to(NAME, lambda s: s[NAME].char()), f"{NAME}' is int8"),
    "sparse": (set_to(NAME, lambda s: s[NAME].to_sparse()), "no plain tensor"),
    "no tensor": (set_to("step", lambda s: 3), "no table of named tensors"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_tensors_that_mean_another_model_are_refused(make_model, tmp_path, edit):
    change, message = EDITS[edit]
    save_bin(make_model("BertForPreTraining"), tmp_path, change)
    with pytest.raises(ValueError, match=message):
        read_huggingface(tmp_path)


def test_an_untied_model_is_refused_unless_it_has_equal_tables(make_model, tmp_path):
    model = make_model("BertForMaskedLM", tie_word_embeddings=False)
    save(model, tmp_path)
    with pytest.raises(ValueError, match="untied decoder"):
        read_huggingface(tmp_path)
    decoder = model.cls.predictions.decoder
    decoder.weight.data = model.bert.embeddings.word_embeddings.weight.data.clone()
    decoder.bias.data = model.cls.predictions.bias.data.clone()
    save(model, tmp_path)
    assert_equal(read_huggingface(tmp_path).tensors, state_of(model))
    save_bin(model, tmp_path, lambda s: {k: s[k] for k in s if DECODER not in k})
    with pytest.raises(ValueError, match="incomplete"):
        read_huggingface(tmp_path)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    make_model, tmp_path, monkeypatch, new, hf
):
    flag = tmp_path / "ran"
    save_bin(
        *(make_model("BertForPreTraining"), tmp_path),
        lambda state: {**state, "extra": Malicious(flag)},
        _use_new_zipfile_serialization=new,
    )
    with pytest.raises(ValueError, match="could run code"):
        read_huggingface(tmp_path)
    assert not flag.exists()
    # The file is a real one: whoever trusts it runs it.
    hf.torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert flag.exists()


def test_a_pickle_that_torch_cannot_vouch_for_is_refused_in_silence(
    make_model, tmp_path
):
    """Its loader of tensors only warns about protocol 4, then gives up."""
    save_bin(make_model("BertForPreTraining"), tmp_path, pickle_protocol=4)
    with pytest.raises(ValueError, match=r"refuses .*could run code"):
        read_huggingface(tmp_path)


class Malicious:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (str(self.flag),)


def test_a_bin_needs_a_torch_that_is_there_and_safe(folder, monkeypatch, hf):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(ValueError, match=r"bert_jax\[export\]"):
            read_huggingface(folder)
    monkeypatch.setattr(hf.torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ValueError, match=r"2\.6 or newer"):
        read_huggingface(folder)


@pytest.mark.parametrize("size", [0, 5, 600, -7])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_damaged_weights_are_refused(make_model, tmp_path, form, size):
    model = make_model("BertForPreTraining")
    if form == "safetensors":
        path = save(model, tmp_path) / "model.safetensors"
    else:
        new = form == "zip"
        save_bin(model, tmp_path, _use_new_zipfile_serialization=new)
        path = tmp_path / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{path.name}.*(fetch it again|not read)"):
        read_huggingface(tmp_path)


def test_numbers_of_eight_bits_are_refused(make_model, tmp_path, hf):
    save(make_model("BertForPreTraining").to(hf.torch.float8_e4m3fn), tmp_path)
    with pytest.raises(ValueError, match=r"float8_e4m3fn'\). Save the model without"):
        read_huggingface(tmp_path)


def test_damaged_shards_are_refused(make_model, tmp_path):
    save(make_model("BertForPreTraining"), tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    written = json.loads(index.read_text())
    shard = written["weight_map"][NAME]

    def refuses(message, **changes):
        index.write_text(json.dumps(written | changes))
        with pytest.raises(ValueError, match=message):
            read_huggingface(tmp_path)

    shards = written["weight_map"]
    refuses("disagree on .*'absent'", weight_map=shards | {"absent": shard})
    fewer = {name: of for name, of in shards.items() if name != NAME}
    refuses(f"disagree on .*{NAME}", weight_map=fewer)
    refuses("no shard files", weight_map=shards | {NAME: f"../{shard}"})
    refuses("no shard files", weight_map=None)
    (tmp_path / shard).unlink()
    refuses(f"{shard} is missing")
    index.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read_huggingface(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match="no weights"):
        read_huggingface(tmp_path)


def test_a_pointer_of_git_lfs_is_named(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(text)
    with pytest.raises(ValueError, match=r"pointer of Git LFS .*git lfs pull"):
        read_huggingface(folder)


def test_weights_of_other_libraries_are_named(folder):
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(ValueError, match=r"Of \['tf_model.h5'\], none can be read"):
        read_huggingface(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["bert.encoder.layer.0.output.dense.bias", POSITIONS])
@pytest.mark.parametrize("form", ["safetensors", "bin", "float16"])
def test_weights_that_are_not_finite_are_refused(
    make_model, tmp_path, value, name, form
):
    model = make_model("BertForPreTraining")
    model.state_dict()[name].view(-1)[3] = value
    model = model.half() if form == "float16" else model
    (save_bin if form == "bin" else save)(model, tmp_path / "x")
    with pytest.raises(ValueError, match=rf"1 numbers in the tensor '{name}'"):
        import_run(tmp_path / "x", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_float64_weights_beyond_float32_are_refused(make_model, tmp_path):
    model = make_model("BertForPreTraining").double()
    model.state_dict()[POSITIONS].view(-1)[0] = 1e300
    with pytest.raises(ValueError, match="not finite, such as inf"):
        import_run(save(model, tmp_path / "x"), tmp_path / "run")


CONFIGS = [
    ({"model_type": "deberta"}, "model_type='deberta'"),
    ({"model_type": ["bert"]}, r"model_type=\['bert'\]; expected a name"),
    ({"architectures": 3}, "architectures=3; expected a list of names"),
    ({"rope_parameters": 7}, "rope_parameters=7; expected an object"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder=True"),
    ({"architectures": ["BertForCausalLM"]}, "a decoder, whose tokens see only"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder"),
    ({"add_cross_attention": True}, "add_cross_attention"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ({"quantization_config": {"bits": 8}}, "quantization_config"),
    ({"auto_map": {"AutoModel": "jina.Bert"}}, "auto_map"),
    ({"problem_type": "ranking"}, "problem_type"),
    ({"hidden_act": "relu"}, "hidden_act='relu'"),
    ({"type_vocab_size": 1}, r"token_type_embeddings.* is \[2, 32\]"),
    ({"layer_norm_eps": "1e-12"}, "layer_norm_eps"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0"),
    ({"hidden_act": "gelu_fast"}, "hidden_act='gelu_fast'"),
    ({"hidden_act": ["gelu"]}, "hidden_act"),
    ({"embedding_size": 16}, "embedding_size=16"),
    ({"hidden_size": ...}, r"lacks \['hidden_size'\]"),
    ({"hidden_size": "32"}, "hidden_size"),
    ({"num_attention_heads": 5}, "num_heads=5"),
    ({"hidden_dropout_prob": 1.5}, "hidden=1.5"),
    ({"num_hidden_layers": 2}, "num_hidden_layers=2"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS)
def test_configs_of_other_models_are_refused(folder, change, message):
    read_huggingface(folder)
    edit_json(folder / "config.json", **change)
    with pytest.raises(ValueError, match=message):
        import_run(folder, folder / "run")


def test_what_a_config_leaves_to_transformers_is_said(folder):
    edit_json(
        folder / "config.json",
        layer_norm_eps=...,
        type_vocab_size=...,
        hidden_act="gelu_new",
    )
    source = read_huggingface(folder)
    assert (source.model.layer_norm_eps, source.model.num_segments) == (1e-12, 2)
    assert source.model.gelu == "tanh"
    notes = " ".join(source.notes)
    assert "does not say type_vocab_size=2, layer_norm_eps=1e-12;" in notes


def test_a_missing_or_broken_config_is_refused(folder):
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            read_huggingface(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_huggingface(folder)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("BertForSequenceClassification", "classifier"),
        ("BertForTokenClassification", "tokens"),
    ],
)
def test_labels_must_name_every_logit(make_model, tmp_path, kind, head):
    names = {0: "O", 1: "B-x", 2: "I-x"}
    model = make_model(kind, id2label=names, label2id={v: k for k, v in names.items()})
    save(model, tmp_path)
    assert read_huggingface(tmp_path).labels == ("O", "B-x", "I-x")
    edit_json(tmp_path / "config.json", id2label={"2": "c", "0": "a", "1": "b"})
    assert read_huggingface(tmp_path).labels == ("a", "b", "c")
    for wrong in (
        {"0": "a", "1": "b"},
        {"1": "a", "2": "b", "3": "c"},
        {"0": "a", "1": "b", "2": "a"},
        {"0": "a", "1": "b", "2": "c", "3": "d"},
        {"0": ["a"], "1": ["a"], "2": "c"},
        ["a", "b", "c"],
    ):
        edit_json(tmp_path / "config.json", id2label=wrong)
        with pytest.raises(ValueError, match="id2label"):
            read_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("num_labels", "problem_type"),
    [
        (1, "multi_label_classification"),
        (1, "single_label_classification"),
        (3, "regression"),
    ],
)
def test_a_loss_that_does_not_fit_the_logits_is_refused(
    make_model, tmp_path, num_labels, problem_type
):
    save(make_model("BertForSequenceClassification", num_labels=num_labels), tmp_path)
    edit_json(tmp_path / "config.json", problem_type=problem_type)
    message = f"{problem_type}' and a classifier with .* Pass --encoder-only"
    with pytest.raises(ValueError, match=message):
        import_run(tmp_path, tmp_path / "run")
    imported = import_run(tmp_path, tmp_path / "run", encoder_only=True)
    assert imported.kind == "pretrain"


@pytest.mark.parametrize("lacking", ["classifier.bias", "bert.pooler.dense.weight"])
def test_a_classifier_without_its_head_is_refused(make_model, tmp_path, lacking):
    def without(state):
        return {name: tensor for name, tensor in state.items() if name != lacking}

    save_bin(make_model("BertForSequenceClassification"), tmp_path / "x", without)
    message = f"is a classifier by its config.json, but has no {lacking}. Fetch the"
    with pytest.raises(ValueError, match=message):
        import_run(tmp_path / "x", tmp_path / "run")
    imported = import_run(tmp_path / "x", tmp_path / "run", encoder_only=True)
    assert imported.kind == "pretrain"
