"""Models that transformers saved, read back: nothing lost, and nothing believed."""

import dataclasses
import json
import os
import re
import shutil
import sys
import warnings

import numpy as np
import pytest
import reference

from bert_jax.data.tokenizer import WordPieceTokenizer, train_sentencepiece
from bert_jax.exchange.huggingface import write_huggingface
from bert_jax.exchange.names import from_tensors, to_tensors
from bert_jax.exchange.read_huggingface import read_huggingface

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "[", "]"),
    *(p + c for c in "abcdefghijklmnopqrstuvwxyz" for p in ("", "##")),
]
assert len(PIECES) == SIZES["vocab_size"]
DECODER = "cls.predictions.decoder"
WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def hf():
    """transformers, and torch beside it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
            import torch
            import transformers
    except ModuleNotFoundError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing}; install .[export]")
    transformers.torch = torch
    return transformers


@pytest.fixture(scope="module")
def make_model(hf):
    """make_model("BertForMaskedLM", **config): random everywhere, norms included."""

    def make(kind, *args, **config):
        model = getattr(hf, kind)(hf.BertConfig(**(SIZES | config)), *args)
        hf.torch.manual_seed(0)
        for parameter in model.parameters():
            hf.torch.nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return make


def save(model, folder, **options):
    model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder, pieces=PIECES, **config):
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    config = {"do_lower_case": True} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_bin(model, folder, edit=dict, **options):
    """As transformers 4 did: a pickled state_dict, tied tensors and all."""
    import torch

    save(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(edit(model.state_dict()), folder / "pytorch_model.bin", **options)
    return folder


def edit_json(path, **changes):
    value = json.loads(path.read_text()) | changes
    kept = {key: item for key, item in value.items() if item is not ...}
    path.write_text(json.dumps(kept))


def assert_equal(found, expected):
    """The same names, and bits."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32, name
        assert found[name].tobytes() == np.asarray(value).tobytes(), name


def state_of(model):
    """What the table covers: all but the copies of tied tensors."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return {name: v for name, v in state.items() if not name.startswith(DECODER)}


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
    assert source.dialect == "huggingface"
    labelled = source.head in ("classifier", "tokens")
    assert source.labels == (("LABEL_0", "LABEL_1", "LABEL_2") if labelled else None)

    read = from_tensors(source.model, source.tensors, source.head, "huggingface")
    assert sorted(read.used) == sorted(expected)
    if kind not in ("BertForPreTraining", *list(CLASSES)[4:]):
        assert read.missing, "the heads that this class has not"
        return
    assert read.missing == ()
    write_huggingface(
        *(source.model, read.params, source.head, source.tokenizer, tmp_path / "ours"),
        labels=source.labels,
    )
    back = getattr(hf, kind).from_pretrained(tmp_path / "ours")
    assert_equal(state_of(back), expected)
    for key in ("hidden_act", "layer_norm_eps", *SIZES):
        assert getattr(back.config, key) == getattr(model.config, key)


def test_a_bare_encoder_without_pooler_says_what_is_missing(make_model, tmp_path):
    model = make_model("BertModel", False)  # add_pooling_layer
    source = read_huggingface(save(model, tmp_path))
    read = from_tensors(source.model, source.tensors, "pretraining", "huggingface")
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
        dropout_rate=0.25,
        attention_dropout_rate=0.0,
        max_positions=19,
    )
    shapes = reference.classifier_shapes(cfg, 2)
    shapes[head] = shapes.pop("classifier")
    if head in ("tokens", "spans"):
        del shapes["pooler"]
    params = random_params(cfg)
    if head != "pretraining":
        params = reference.random_params(shapes, seed=1)
    tensors = to_tensors(cfg, params, head, "huggingface")
    labels = ("no", "yes") if head in ("classifier", "tokens") else None
    tokenizer = WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=False)
    folder = tmp_path / "export"
    write_huggingface(cfg, params, head, tokenizer, folder, labels=labels)
    source = read_huggingface(folder)
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


def rename(change):
    return lambda state: {change(name): value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "0.auto_model."])
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
    read = from_tensors(source.model, source.tensors, "pretraining", "huggingface")
    unused = set(source.tensors) - set(read.used)
    assert unused == {"adapter.gamma", "bert.embeddings.counts"}
    assert any("position_ids" in note for note in source.notes)


def set_to(name, function):
    return lambda state: {**state, name: function(state)}


def flip_last_bit(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[-1] *= 1 + 2.0**-23
    return tensor


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


def test_a_decoder_can_stand_for_what_it_is_tied_to(make_model, tmp_path, whole):
    """Some writers keep the other one of two tied tensors."""
    gone = (WORDS, "cls.predictions.bias")
    save_bin(
        *(make_model("BertForPreTraining"), tmp_path),
        lambda state: {name: v for name, v in state.items() if name not in gone},
    )
    assert_equal(read_huggingface(tmp_path).tensors, read_huggingface(whole).tensors)


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


def test_safetensors_need_no_torch(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert read_huggingface(folder).head == "pretraining"


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


CONFIGS = [
    ({"model_type": "roberta"}, "model_type='roberta'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder=True"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder"),
    ({"add_cross_attention": True}, "add_cross_attention"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ({"quantization_config": {"bits": 8}}, "quantization_config"),
    ({"auto_map": {"AutoModel": "jina.Bert"}}, "auto_map"),
    ({"problem_type": "multi_label_classification"}, "problem_type"),
    ({"hidden_act": "relu"}, "hidden_act='relu'"),
    ({"hidden_act": "gelu_fast"}, "hidden_act='gelu_fast'"),
    ({"hidden_act": ["gelu"]}, "hidden_act"),
    ({"embedding_size": 16}, "embedding_size=16"),
    ({"hidden_size": ...}, r"lacks \['hidden_size'\]"),
    ({"hidden_size": "32"}, "hidden_size"),
    ({"num_attention_heads": 5}, "num_heads=5"),
    ({"hidden_dropout_prob": 1.5}, "dropout_rate=1.5"),
    ({"num_hidden_layers": 2}, "num_hidden_layers=2"),
    ({"architectures": ["BertForMultipleChoice"]}, "multiple choice"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS)
def test_configs_of_other_models_are_refused(folder, change, message):
    read_huggingface(folder)
    edit_json(folder / "config.json", **change)
    with pytest.raises(ValueError, match=message):
        read_huggingface(folder)


def test_a_missing_or_broken_config_is_refused(folder):
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            read_huggingface(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_huggingface(folder)


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
    assert (model.dropout_rate, model.attention_dropout_rate) == (0.2, 0.0)
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
    ):
        edit_json(tmp_path / "config.json", id2label=wrong)
        with pytest.raises(ValueError, match="id2label"):
            read_huggingface(tmp_path)


def test_a_regression_is_refused(make_model, tmp_path):
    save(make_model("BertForSequenceClassification", num_labels=1), tmp_path)
    with pytest.raises(ValueError, match="regression"):
        read_huggingface(tmp_path)


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json", "both"])
@pytest.mark.parametrize("kind", ["uncased", "cased"])
def test_real_text_gets_the_ids_of_transformers(
    hf, make_model, shared_data, tmp_path, form, kind
):
    vocab = shared_data / "vocab" / f"bert-base-{kind}-vocab.txt"
    size = len(vocab.read_text(encoding="utf-8").splitlines())
    small = {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 4}
    make_model("BertModel", vocab_size=size, **small).save_pretrained(tmp_path)
    theirs = hf.BertTokenizer(str(vocab), do_lower_case=kind == "uncased")
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    if form != "tokenizer.json":
        shutil.copy(vocab, tmp_path / "vocab.txt")
    if form == "vocab.txt":
        (tmp_path / "tokenizer.json").unlink()
        theirs = hf.AutoTokenizer.from_pretrained(tmp_path)
    source = read_huggingface(tmp_path)
    assert source.tokenizer.lowercase == (kind == "uncased")
    assert source.tokenizer.vocab_size == source.model.vocab_size == size
    assert any("more than 100 characters" in note for note in source.notes)

    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines = [*text.split("\n"), "École ALTÉRÉE", "日本 İstanbul", "a\u0301 \x00b"]
    ours = source.tokenizer.encode(lines)
    assert sum(map(len, ours)) > 200_000
    assert theirs(lines, add_special_tokens=False)["input_ids"] == ours


def test_the_length_limit_of_words_is_the_one_difference(hf, folder):
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    source = read_huggingface(folder)
    (note,) = (note for note in source.notes if "characters" in note)
    assert "more than 100 characters are [UNK] there, of more than 200 here" in note
    for length, equal in ((100, True), (101, False), (200, False), (201, True)):
        ids = theirs("a" * length, add_special_tokens=False)["input_ids"]
        assert (source.tokenizer.encode(["a" * length]) == [ids]) == equal, length


@pytest.mark.parametrize("lowercase", [True, False])
def test_casing_needs_one_answer(hf, folder, lowercase):
    config = folder / "tokenizer_config.json"
    edit_json(config, do_lower_case=lowercase)
    assert read_huggingface(folder).tokenizer.lowercase == lowercase
    assert (
        read_huggingface(folder, lowercase=lowercase).tokenizer.lowercase == lowercase
    )
    flag = "--no-lowercase" if lowercase else "--lowercase"
    with pytest.raises(ValueError, match=f"{flag}.*disagree"):
        read_huggingface(folder, lowercase=not lowercase)

    save_fast(hf, folder, do_lower_case=lowercase)
    assert read_huggingface(folder).tokenizer.lowercase == lowercase
    edit_json(config, do_lower_case=not lowercase, strip_accents=None)
    with pytest.raises(ValueError, match=r"tokenizer\.json lowercase.*disagree"):
        read_huggingface(folder)
    edit_json(config, do_lower_case=...)
    assert read_huggingface(folder).tokenizer.lowercase == lowercase

    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"--lowercase .*or --no-lowercase"):
        read_huggingface(folder)
    config.unlink()
    assert (
        read_huggingface(folder, lowercase=lowercase).tokenizer.lowercase == lowercase
    )


def save_fast(hf, folder, pieces=PIECES, **settings):
    """tokenizer.json as transformers writes it."""
    vocab = {piece: index for index, piece in enumerate(pieces)}
    hf.BertTokenizer(vocab, **settings).save_pretrained(folder)


RULES = [
    ({"strip_accents": False}, "strip_accents=False"),
    ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars=False"),
    ({"do_basic_tokenize": False}, "do_basic_tokenize"),
    ({"never_split": ["river"]}, "never_split"),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
    ({"cls_token": "<s>"}, "cls_token='<s>'"),
    ({"mask_token": {"content": "<mask>"}}, "mask_token='<mask>'"),
    ({"additional_special_tokens": ["<x>"]}, "adds.*<x>"),
    ({"extra_special_tokens": {"image_token": "<image>"}}, "adds.*<image>"),
    ({"added_tokens_decoder": {"60": {"content": "##z"}}}, "adds.*##z"),
]


@pytest.mark.parametrize(("change", "message"), RULES)
def test_settings_with_other_ids_are_refused(folder, change, message):
    read_huggingface(folder)
    edit_json(folder / "tokenizer_config.json", **change)
    with pytest.raises(ValueError, match=message):
        read_huggingface(folder)


FAST_RULES = {
    "normalizer clean_text=false": "clean_text=False",
    "normalizer handle_chinese_chars=false": "handle_chinese_chars=False",
    "normalizer strip_accents=false": "strip_accents=False",
    "model max_input_chars_per_word=50": "max_input_chars_per_word=50",
    'model continuing_subword_prefix="@@"': "continuing_subword_prefix='@@'",
    'pre_tokenizer type="Whitespace"': "pre_tokenizer='Whitespace'",
    "- normalizer=null": "normalizer=''",
    "- post_processor=null": r"makes \['r', ",
}


@pytest.mark.parametrize("rule", FAST_RULES)
def test_fast_tokenizers_with_other_ids_are_refused(hf, folder, rule):
    save_fast(hf, folder)
    read_huggingface(folder)
    path = folder / "tokenizer.json"
    part, key, value = re.split("[ =]", rule)
    rules = json.loads(path.read_text())
    (rules if part == "-" else rules[part])[key] = json.loads(value)
    path.write_text(json.dumps(rules))
    with pytest.raises(ValueError, match=FAST_RULES[rule]):
        read_huggingface(folder)


def test_tokens_added_to_a_fast_tokenizer_are_refused(hf, folder):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["ab"])
    tokenizer.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=...)
    with pytest.raises(ValueError, match=r"tokenizer\.json adds \['ab'\]"):
        read_huggingface(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text('{"ab": 61}')
    with pytest.raises(ValueError, match=r"adds \['ab'\]"):
        read_huggingface(folder)


def test_two_vocabularies_must_be_one(hf, folder):
    save_fast(hf, folder, [*PIECES[:-2], PIECES[-1], PIECES[-2]])
    with pytest.raises(ValueError, match=r"differ in .*'##z', 'z'"):
        read_huggingface(folder)


def test_a_directory_without_a_known_tokenizer_is_refused(hf, folder):
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"none of them; expected vocab\.txt"):
        read_huggingface(folder, lowercase=True)
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match="with a BPE model"):
        read_huggingface(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        read_huggingface(folder)


def test_rows_without_a_piece_are_kept(make_model, tmp_path, hf):
    model = make_model("BertForPreTraining", vocab_size=64)
    source = read_huggingface(save(model, tmp_path / "theirs"))
    assert source.model.vocab_size == source.tokenizer.vocab_size == 64
    assert source.tokenizer.pieces[:61] == PIECES
    assert any("[row61] to [row63]" in note for note in source.notes)
    plain = WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=True)
    texts = ["[row61] row61", "river [stone], [row63]"]
    assert source.tokenizer.encode(texts) == plain.encode(texts)
    assert_equal(source.tensors, state_of(model))
    read = from_tensors(source.model, source.tensors, source.head, "huggingface")
    parts = (source.model, read.params, source.head, source.tokenizer)
    write_huggingface(*parts, tmp_path / "ours")
    back = hf.BertForPreTraining.from_pretrained(tmp_path / "ours")
    assert_equal(state_of(back), state_of(model))
    again = read_huggingface(tmp_path / "ours")
    assert again.tokenizer.sha256 == source.tokenizer.sha256


def test_more_pieces_than_rows_are_refused(folder):
    save_tokenizer(folder, [*PIECES, "é"])
    with pytest.raises(ValueError, match=r"62 pieces.*vocab_size=61"):
        read_huggingface(folder)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_our_sentencepiece_exports_come_back(
    tiny, random_params, tmp_path, kind, lowercase
):
    def train(seed):
        rng = np.random.default_rng(seed)
        words = ["river", "Stone", "window", "École", "teach", "Music", "[x]", "."]
        words += [word + ending for word in words for ending in ("s", "ing", "ed")]
        lines = [" ".join(rng.choice(words, 9)) for _ in range(300)]
        return train_sentencepiece(
            lines, vocab_size=48, lowercase=lowercase, model_type=kind
        )

    tokenizer = train(0)
    cfg = dataclasses.replace(tiny, vocab_size=48)
    params = random_params(cfg)
    write_huggingface(cfg, params, "pretraining", tokenizer, tmp_path / "ours")
    source = read_huggingface(tmp_path / "ours")
    assert source.tokenizer.sha256 == tokenizer.sha256
    assert source.tokenizer.lowercase == lowercase
    assert source.notes == ()
    with pytest.raises(ValueError, match="disagree"):
        read_huggingface(tmp_path / "ours", lowercase=not lowercase)
    model_path = tmp_path / "ours" / "sentencepiece.model"
    model = model_path.read_bytes()
    model_path.write_bytes(model.replace("▁river".encode(), "▁ravir".encode()))
    with pytest.raises(ValueError, match=r"tokenizer\.json.*differ in"):
        read_huggingface(tmp_path / "ours")
    model_path.write_bytes(model[:-3])
    with pytest.raises(ValueError, match="damaged"):
        read_huggingface(tmp_path / "ours")
    model_path.write_bytes(model)
    edit_json(tmp_path / "ours" / "config.json", vocab_size=50)
    with pytest.raises(ValueError, match=r"48 pieces.*vocab_size=50"):
        read_huggingface(tmp_path / "ours")
