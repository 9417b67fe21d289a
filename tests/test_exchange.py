"""Exported weights: names, layouts and logits, as transformers reads them."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import reference
from exchange_models import (
    HEADS,
    fitting,
    labels_of,
    make_head_params,
    make_tokenizer,
    without_padding,
    worst,
)

from bert_jax.config import DropoutConfig
from bert_jax.exchange.comparison import Probe, differences, make_probe
from bert_jax.exchange.families import google_bert, registry
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.family import Field
from bert_jax.exchange.families.registry import family_of_model
from bert_jax.exchange.portable import INPUTS, OUTPUTS, PortableModel
from bert_jax.exchange.tensors import Row, from_tensors, stacked, to_tensors
from bert_jax.exchange.transformers_model import verify_huggingface
from bert_jax.exchange.write_huggingface import write_huggingface


@pytest.fixture(scope="module")
def small_tokenizer():
    """For what does not depend on its kind."""
    return make_tokenizer("wordpiece")


@pytest.fixture(scope="module")
def params(tiny, random_params):
    """Random everywhere; the vocabulary padding, which no export keeps, is zero."""
    return without_padding(tiny, random_params(tiny))


@pytest.fixture(scope="module")
def head_params(tiny, params):
    """head_params(head): the whole parameters of each head."""
    return functools.partial(make_head_params, tiny, params)


@pytest.mark.parametrize("head", HEADS)
def test_round_trip_is_bitwise(tiny, head_params, head):
    tensors = to_tensors(tiny, head_params(head), BERT.rows(tiny, head))
    read = from_tensors(tiny, tensors, BERT.rows(tiny, head))
    assert sorted(read.used) == sorted(tensors)
    assert read.new == ()
    back = reference.flatten(read.params)
    expected = reference.flatten(head_params(head))
    assert back.keys() == expected.keys()
    for path, value in expected.items():
        assert back[path].dtype == np.float32
        np.testing.assert_array_equal(back[path], value, err_msg=path)


def test_several_parameters_can_be_one_tensor(tiny):
    """As in families that fuse query, key and value, and have no biases."""
    rows = (
        *stacked(
            [
                Row("layers/q", "h.{layer}.qkv", "DNH", num_inputs=1, num_parts=3),
                Row("layers/k", "h.{layer}.qkv", "DNH", None, 1, part=1, num_parts=3),
                Row("layers/v", "h.{layer}.qkv", "DNH", None, 1, part=2, num_parts=3),
            ],
            tiny.num_layers,
        ),
        Row("head/bias", "bias", "C"),
    )
    draw = np.random.default_rng(0).normal
    shape = (tiny.num_layers, tiny.hidden_size, tiny.num_heads, tiny.head_size)
    params = {
        "layers": {part: draw(size=shape).astype(np.float32) for part in "qkv"},
        "head": {"bias": np.ones(3, np.float32)},
    }
    tensors = to_tensors(tiny, params, rows)
    assert tensors.keys() == {"bias", *(f"h.{layer}.qkv" for layer in range(3))}
    width = tiny.hidden_size
    for index, part in enumerate("qkv"):
        theirs = tensors["h.1.qkv"][index * width : (index + 1) * width]
        ours = params["layers"][part][1].reshape(width, width)
        np.testing.assert_array_equal(theirs, ours.T)
    read = from_tensors(tiny, tensors, rows)
    assert (read.new, set(read.used)) == ((), set(tensors))
    for part in "qkv":
        np.testing.assert_array_equal(
            read.params["layers"][part], params["layers"][part]
        )
    with pytest.raises(ValueError, match=r"\[32, 32\].*\[96, 32\]"):
        from_tensors(tiny, tensors | {"h.0.qkv": np.zeros((32, 32))}, rows)


def test_layouts_are_outputs_by_inputs(tiny, params):
    tensors = to_tensors(tiny, params, BERT.rows(tiny, "pretraining"))
    x = np.random.default_rng(3).normal(size=tiny.hidden_size).astype(np.float32)
    attention = params["layers"]["attention"]
    theirs = tensors["bert.encoder.layer.2.attention.self.key.weight"] @ x
    ours = np.einsum("d,dnh->nh", x, attention["key"]["kernel"][2])
    # One float32 sum of 32 products of size 0.2: errors of some 1e-7.
    np.testing.assert_allclose(theirs, ours.ravel(), atol=2e-6, rtol=0)
    theirs = tensors["bert.encoder.layer.1.attention.output.dense.weight"] @ x
    heads = x.reshape(tiny.num_heads, tiny.head_size)
    ours = np.einsum("nh,nhd->d", heads, attention["out"]["kernel"][1])
    np.testing.assert_allclose(theirs, ours, atol=2e-6, rtol=0)
    assert tensors["bert.embeddings.word_embeddings.weight"].shape == (61, 32)
    assert tensors["cls.predictions.bias"].shape == (61,)


def test_missing_left_over_and_misshapen_parameters_are_errors(tiny, params):
    flat = reference.flatten(params)
    for change, message in (
        ({"adapter/kernel": np.zeros(3, np.float32)}, "adapter/kernel"),
        ({"nsp/bias": np.zeros(3, np.float32)}, r"nsp/bias.*\[3\].*\[2\]"),
        ({"pooler/bias": np.zeros(32)}, "float64"),
    ):
        tree = reference.unflatten(flat | change)
        with pytest.raises(ValueError, match=message):
            to_tensors(tiny, tree, BERT.rows(tiny, "pretraining"))
    tree = reference.unflatten({k: v for k, v in flat.items() if k != "mlm/norm/bias"})
    with pytest.raises(ValueError, match="'mlm/norm/bias' is missing"):
        to_tensors(tiny, tree, BERT.rows(tiny, "pretraining"))


def test_a_value_without_a_word_is_refused(tiny, monkeypatch):
    """A new field of ModelConfig must not be lost on the way to another library."""
    fields = {k: v for k, v in BERT.fields.items() if k != "layer_norm_eps"}
    fields["gelu"] = Field("hidden_act", "gelu", {"gelu": "exact"})
    family = dataclasses.replace(BERT, fields=fields)
    other = dataclasses.replace(family, fixed={"layer_norm_eps": 0.5})
    known = {"bert": family, "other": other}
    monkeypatch.setattr(registry, "FAMILIES", known)
    exact = dataclasses.replace(tiny, gelu="exact")
    assert family_of_model(exact) is family
    assert family_of_model(dataclasses.replace(exact, layer_norm_eps=0.5)) is other
    half = dataclasses.replace(tiny, gelu="tanh", layer_norm_eps=0.25)
    message = r"bert has no word for gelu='tanh', layer_norm_eps=0.25; other has .*"
    with pytest.raises(ValueError, match=message):
        family_of_model(half)


def test_google_refuses_a_value_without_a_word(tiny, monkeypatch):
    monkeypatch.delitem(google_bert._FIELDS, "init_std")
    cfg = dataclasses.replace(tiny, gelu="tanh", init_std=0.02)
    assert "initializer_range" not in google_bert.config_to_google(cfg, DropoutConfig())
    cfg = dataclasses.replace(cfg, init_std=0.5)
    with pytest.raises(ValueError, match=r"init_std=0\.5: google-research/bert has no"):
        google_bert.config_to_google(cfg, DropoutConfig())


def test_missing_left_over_and_misshapen_tensors_are_told(tiny, params):
    tensors = to_tensors(tiny, params, BERT.rows(tiny, "pretraining"))
    name = "bert.encoder.layer.1.output.dense.weight"
    turned = tensors | {name: tensors[name].T}
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense.*\[32, 48\]"):
        from_tensors(tiny, turned, BERT.rows(tiny, "pretraining"))
    some = {k: v for k, v in tensors.items() if k != name} | {"over": np.zeros(1)}
    read = from_tensors(tiny, some, BERT.rows(tiny, "pretraining"))
    assert read.new == ("layers/mlp/down/kernel",)
    assert set(some) - set(read.used) == {"over"}


@pytest.mark.parametrize("head", HEADS)
def test_transformers_finds_every_tensor(
    tiny, head_params, small_tokenizer, tmp_path, transformers, silent, head
):
    cfg, params = fitting(tiny, small_tokenizer, head_params(head))
    folder = tmp_path / "export"
    write_huggingface(
        PortableModel(cfg, params, head, small_tokenizer, labels=labels_of(head)),
        folder,
    )
    architecture = {
        "pretraining": "BertForPreTraining",
        "classifier": "BertForSequenceClassification",
        "tokens": "BertForTokenClassification",
        "spans": "BertForQuestionAnswering",
    }[head]
    auto = getattr(transformers, architecture.replace("Bert", "AutoModel"))
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert type(model).__name__ == architecture
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors = to_tensors(cfg, params, BERT.rows(cfg, head))
    for name, value in tensors.items():
        np.testing.assert_array_equal(state.pop(name), value, err_msg=name)
    # What is left is tied, or a constant.
    assert set(state) <= {
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "bert.embeddings.position_ids",
    }
    if head == "pretraining":
        decoder = model.cls.predictions.decoder
        assert decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert decoder.bias is model.cls.predictions.bias


# The GELU is the encoder's, and the MLM head has one of its own.
@pytest.mark.parametrize(
    ("head", "gelu"), [*((head, "tanh") for head in HEADS), ("pretraining", "exact")]
)
def test_logits_match(
    tiny, head_params, small_tokenizer, tmp_path, transformers, head, gelu
):
    cfg = dataclasses.replace(tiny, gelu=gelu)
    cfg, params = fitting(cfg, small_tokenizer, head_params(head))
    model = PortableModel(cfg, params, head, small_tokenizer, labels=labels_of(head))
    probe = make_probe(model)
    folder = tmp_path / "export"
    write_huggingface(model, folder)
    # Two libraries sum float32 in two orders: 2.4e-6 seen. Ten times that.
    assert worst(verify_huggingface(folder, probe)) < 2.5e-5

    def difference_after(name, where, by):
        output = np.array(probe.outputs[name])
        output[where] += by
        changed = probe._replace(outputs={**probe.outputs, name: output})
        return worst(verify_huggingface(folder, changed))

    # A change counts on any real position and in every output, and on no other.
    for name in probe.outputs:
        assert difference_after(name, (0, 0), 0.5) > 0.4
        assert np.isnan(difference_after(name, (0, 0), np.nan))
    if head != "classifier":
        padding = tuple(np.argwhere(probe.mask == 0)[0])
        assert difference_after(next(iter(probe.outputs)), padding, 9.0) < 2.5e-5
    other_gelu = {"tanh": "gelu", "exact": "gelu_pytorch_tanh"}[gelu]
    config = json.loads((folder / "config.json").read_text())
    config["hidden_act"] = other_gelu
    (folder / "config.json").write_text(json.dumps(config))
    assert worst(verify_huggingface(folder, probe)) > 1e-4


def test_outputs_of_another_shape_or_model_are_refused():
    ids, mask = np.ones((2, 4), np.int32), np.ones((2, 4), np.int32)
    logits = np.zeros((2, 4, 3), np.float32)
    probe = Probe(
        "tokens", INPUTS, OUTPUTS["tokens"], {"logits": logits}, ids, ids, mask
    )

    def run(*ids):
        return {"logits": logits[: len(ids[0]), : ids[0].shape[1]]}

    assert worst(differences(run, probe)) == 0.0
    shorter = probe._replace(outputs={"logits": logits[..., :2]})
    with pytest.raises(ValueError, match=r"logits is \[2, 4, 2\] here"):
        differences(run, shorter)
    with pytest.raises(ValueError, match=r"\['end_logits', 'logits'\]"):
        differences(lambda *ids: {"end_logits": logits}, probe)
    mask[0, 1] = 0
    with pytest.raises(ValueError, match="padding behind"):
        differences(run, probe)


def test_verification_refuses_an_incomplete_file(
    tiny, params, small_tokenizer, tmp_path, transformers
):
    from safetensors.numpy import load_file, save_file

    cfg, params = fitting(tiny, small_tokenizer, params)
    folder = tmp_path / "export"
    write_huggingface(
        PortableModel(cfg, params, "pretraining", small_tokenizer), folder
    )
    whole = load_file(folder / "model.safetensors")
    probe = make_probe(PortableModel(cfg, params, "pretraining", small_tokenizer))
    name = "bert.pooler.dense.bias"
    for tensors in (
        {k: v for k, v in whole.items() if k != name},
        whole | {name: np.zeros(7, np.float32)},
        {k.replace(name, "bert.pooler.dense.bios"): v for k, v in whole.items()},
    ):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.bi"):
            verify_huggingface(folder, probe)
