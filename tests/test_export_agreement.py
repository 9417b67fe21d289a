"""Exports of weights as trained ones are: passed, and refused when one thing is wrong."""

import dataclasses
import json

import numpy as np
import pytest
import reference
from exchange_models import LABELS, labels_of, make_tokenizer, without_padding
from safetensors.numpy import load_file, save_file

from bert_jax.exchange import write_onnx, write_stablehlo
from bert_jax.exchange.comparison import allowed_differences, make_probe
from bert_jax.exchange.export import export_model, export_run
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.tensors import flatten, to_tensors, unflatten
from bert_jax.exchange.transformers_model import verify_huggingface
from bert_jax.exchange.write_google import check_google
from bert_jax.exchange.write_huggingface import check_huggingface, write_huggingface

LAYER = "bert.encoder.layer.1"
NEEDS = {"huggingface": "hf", "tensorflow": "tf", "onnx": "hf", "stablehlo": None}
EVERY_FORMAT = pytest.mark.parametrize(
    "to",
    [
        # PyTorch's exporter takes its time.
        pytest.param(to, marks=pytest.mark.slow(ci=False)) if to == "onnx" else to
        for to in NEEDS
    ],
)


def make_trained(tiny, head="pretraining", reach=7.0, **changes):
    """Random weights with an outlier feature, biases of 1e-3, and logits to `reach`.

    Published encoders have one feature that is far larger than the others, which is why
    their float32 logits are further from exact ones than those of fresh weights.
    """
    tokenizer = make_tokenizer("wordpiece")
    cfg = dataclasses.replace(tiny, vocab_size=tokenizer.vocab_size, **changes)
    if head == "pretraining":
        shapes = reference.pretrain_shapes(cfg)
    else:
        shapes = reference.text_shapes(cfg, head, len(LABELS))
    rng = np.random.default_rng(4)
    flat = {}
    for path, shape in reference.flatten(shapes).items():
        shape = tuple(shape)
        is_scale, is_bias = path.endswith("scale"), path.endswith("bias")
        value = rng.normal(float(is_scale), 1e-3 if is_bias else 0.15, shape)
        if path == "layers/mlp/norm/scale":
            value[..., 5] *= 8.0
        flat[path] = value.astype(np.float32)
    model = PortableModel(
        *(cfg, without_padding(cfg, unflatten(flat)), head, tokenizer),
        labels=labels_of(head),
    )
    last = "embed/token/embedding" if head == "pretraining" else f"{head}/kernel"
    flat = flatten(model.params)
    flat[last] = flat[last] * np.float32(reach / reach_of(model))
    return dataclasses.replace(model, params=unflatten(flat))


def reach_of(model):
    probe = make_probe(model)
    return probe.largest(probe.signature[0])


@pytest.fixture(scope="module")
def trained(tiny):
    return make_trained(tiny)


@EVERY_FORMAT
@pytest.mark.parametrize(
    ("head", "reach"), [("pretraining", 7.0), ("pretraining", 100.0), ("classifier", 7)]
)
def test_large_logits_pass(tiny, tmp_path, request, to, head, reach):
    if NEEDS[to]:
        request.getfixturevalue(NEEDS[to])
    model = make_trained(tiny, head, reach)
    found = export_model(model, tmp_path, to)
    if to == "tensorflow":
        assert found["differences"] == {}
        return
    first = next(iter(found["differences"].values()))
    # The scale of the token table scales the encoder's input too, so about.
    assert 0.5 * reach < first["largest_output"] < 2 * reach
    # Far less than a wrong weight does, also where a fixed 1e-5 would refuse.
    assert first["largest"] <= first["allowed"] < 1e-3 * reach
    assert "4 times the largest change of our own outputs" in found["rule"]


def swap_rows(name):
    def change(tensors):
        tensors[name] = tensors[name][[0, 2, 1, *range(3, len(tensors[name]))]]

    return change


def transpose(name):
    def change(tensors):
        tensors[name] = tensors[name].T.copy()

    return change


def zero(name):
    def change(tensors):
        assert 0 < np.abs(tensors[name]).max() < 5e-3
        tensors[name] = np.zeros_like(tensors[name])

    return change


def flip(name):
    def change(tensors):
        tensors[name].view(np.int32).flat[0] ^= 1

    return change


WRONG = {
    "a swapped row": swap_rows("bert.embeddings.word_embeddings.weight"),
    "a transposed matrix": transpose(f"{LAYER}.attention.self.key.weight"),
    "a zeroed bias": zero(f"{LAYER}.attention.self.key.bias"),
    "a bit": flip("bert.pooler.dense.weight"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_tensor_in_a_hugging_face_file_is_refused(trained, tmp_path, wrong):
    write_huggingface(trained, tmp_path)
    check_huggingface(tmp_path, trained)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    WRONG[wrong](tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not hold the weights"):
        check_huggingface(tmp_path, trained)


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_eps": 1e-5},
        {"hidden_act": "gelu"},
        {"hidden_dropout_prob": 0.3},
        {"num_attention_heads": 2},
    ],
)
def test_one_wrong_value_of_a_config_is_refused(trained, tmp_path, change):
    write_huggingface(trained, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"config\.json says"):
        check_huggingface(tmp_path, trained)


def test_a_wrong_weight_in_a_stablehlo_or_tensorflow_export_is_refused(
    trained, tmp_path, tf
):
    from bert_jax.exchange import write_google

    write_stablehlo.write_stablehlo(trained, tmp_path / "hlo")
    path = tmp_path / "hlo/model.safetensors"
    weights = load_file(path)
    weights["pooler/bias"] = np.zeros_like(weights["pooler/bias"])
    save_file(weights, path)
    with pytest.raises(ValueError, match="'pooler/bias' differs"):
        write_stablehlo.check_stablehlo(tmp_path / "hlo", trained)
    write_google.write_google(trained, tmp_path / "tf")
    check_google(tmp_path / "tf", trained)
    other = dataclasses.replace(trained, params=changed(trained, "nsp/bias"))
    with pytest.raises(ValueError, match=r"'cls/seq_relationship/output_bias' differs"):
        check_google(tmp_path / "tf", other)


def changed(model, name):
    flat = flatten(model.params)
    return unflatten(flat | {name: np.zeros_like(flat[name])})


@pytest.mark.parametrize("reach", [7.0, 100.0])
def test_a_mistake_in_the_table_shows_in_the_logits(
    tiny, tmp_path, hf, monkeypatch, reach
):
    """It is the same in writer and reader, so that only another program sees it."""
    model = make_trained(tiny, reach=reach)
    rows = BERT.rows

    def mistaken(cfg, head):
        query, key = (f"{LAYER}.attention.self.{x}.weight" for x in ("query", "key"))
        swap = {query: key, key: query}
        return tuple(
            row._replace(theirs=swap.get(row.theirs, row.theirs))
            for row in rows(cfg, head)
        )

    family = dataclasses.replace(BERT, rows=mistaken)
    monkeypatch.setattr("bert_jax.exchange.families.registry.FAMILIES", {"b": family})
    with pytest.raises(ValueError, match=r"differ from ours by .*Nothing was written"):
        export_model(model, tmp_path, "huggingface")


@pytest.mark.parametrize(("reach", "epsilon"), [(7.0, 1e-5), (100.0, 1e-4)])
def test_another_program_is_refused(tiny, tmp_path, hf, reach, epsilon):
    """The form of GELU, and the epsilon that another library might take.

    With logits of 100, an epsilon of 1e-5 changes as much as rounding may on some CPUs.
    """
    model = make_trained(tiny, reach=reach)
    probe = make_probe(model)
    allowed = allowed_differences(model, probe)

    def passes():
        found = verify_huggingface(tmp_path, probe)
        return all(found[name] <= allowed[name] for name in allowed)

    for change in ({"gelu": "exact"}, {"layer_norm_eps": epsilon}):
        other = dataclasses.replace(model.cfg, **change)
        write_huggingface(dataclasses.replace(model, cfg=other), tmp_path)
        assert not passes(), change
    write_huggingface(model, tmp_path)
    assert passes()


@pytest.mark.slow(ci=False)
def test_one_wrong_tensor_in_an_onnx_graph_is_refused(trained, tmp_path, hf):
    write_onnx.write_onnx(trained, tmp_path)
    write_onnx.check_onnx(tmp_path, trained)
    for name in flatten(trained.params):
        flat = flatten(trained.params)
        flat[name] = flat[name].copy()
        flat[name].view(np.int32).flat[0] ^= 1
        other = dataclasses.replace(trained, params=unflatten(flat))
        rows = BERT.rows(trained.cfg, "pretraining")
        assert to_tensors(other.cfg, other.params, rows)
        with pytest.raises(ValueError, match="does not hold the tensor"):
            write_onnx.check_onnx(tmp_path, other)


def test_weights_that_are_not_finite_are_not_exported(trained):
    flat = flatten(trained.params)
    flat["pooler/bias"] = np.full_like(flat["pooler/bias"], np.nan)
    with pytest.raises(ValueError, match="32 numbers in the tensor 'pooler/bias'"):
        dataclasses.replace(trained, params=unflatten(flat))


@pytest.mark.parametrize("to", ["huggingface", "tensorflow"])
def test_hidden_states_would_be_ignored_where_they_are_there_anyway(tmp_path, to):
    with pytest.raises(ValueError, match="--hidden-states would be ignored"):
        export_run(tmp_path, tmp_path / "out", to, hidden_states=True)
