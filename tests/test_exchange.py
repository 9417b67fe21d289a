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
)

from bert_jax.batch import ClassifyBatch
from bert_jax.exchange.huggingface import write_huggingface
from bert_jax.exchange.names import from_tensors, to_tensors
from bert_jax.exchange.transformers_model import verify_huggingface


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def tokenizer(request):
    return make_tokenizer(request.param)


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
    tensors = to_tensors(tiny, head_params(head), head, "huggingface")
    read = from_tensors(tiny, tensors, head, "huggingface")
    assert sorted(read.used) == sorted(tensors)
    assert (read.missing, read.new) == ((), ())
    back = reference.flatten(read.params)
    expected = reference.flatten(head_params(head))
    assert back.keys() == expected.keys()
    for path, value in expected.items():
        assert back[path].dtype == np.float32
        np.testing.assert_array_equal(back[path], value, err_msg=path)


def test_layouts_are_outputs_by_inputs(tiny, params):
    tensors = to_tensors(tiny, params, "pretraining", "huggingface")
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
            to_tensors(tiny, tree, "pretraining", "huggingface")
    tree = reference.unflatten({k: v for k, v in flat.items() if k != "mlm/norm/bias"})
    with pytest.raises(ValueError, match="'mlm/norm/bias' is missing"):
        to_tensors(tiny, tree, "pretraining", "huggingface")


def test_missing_left_over_and_misshapen_tensors_are_told(tiny, params):
    tensors = to_tensors(tiny, params, "pretraining", "huggingface")
    name = "bert.encoder.layer.1.output.dense.weight"
    turned = tensors | {name: tensors[name].T}
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense.*\[32, 48\]"):
        from_tensors(tiny, turned, "pretraining", "huggingface")
    some = {k: v for k, v in tensors.items() if k != name} | {"over": np.zeros(1)}
    read = from_tensors(tiny, some, "pretraining", "huggingface")
    assert (read.missing, read.new) == ((name,), ("layers/mlp/down/kernel",))
    assert set(some) - set(read.used) == {"over"}


@pytest.mark.parametrize("head", HEADS)
def test_transformers_finds_every_tensor(
    tiny, head_params, tokenizer, tmp_path, transformers, silent, head
):
    cfg, params = fitting(tiny, tokenizer, head_params(head))
    folder = tmp_path / "export"
    write_huggingface(cfg, params, head, tokenizer, folder, labels=labels_of(head))
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
    tensors = to_tensors(cfg, params, head, "huggingface")
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


def our_outputs(cfg, params, head, batch):
    """Logits of every position, as `largest_difference` takes them."""
    import jax

    from bert_jax.batch import PretrainBatch
    from bert_jax.model import classification, encoder, pretraining
    from bert_jax.model.masking import MaskedBatch

    ids, segments = batch.input_ids, batch.segment_ids
    rows, length = ids.shape
    every = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    if head == "pretraining":
        one = np.zeros((rows, 1), np.int32)
        fields = (batch.sequence_ids, every, one, one, np.ones((rows, 1), np.float32))
        plain = PretrainBatch(ids, segments, *fields)
        masked = MaskedBatch(ids, every, ids, np.ones((rows, length), np.float32))
        found = pretraining.apply(cfg, params, plain, masked)
        return found.mlm_logits, found.nsp_logits[:, 0]
    if head == "classifier":
        fields = (np.zeros(rows, np.int32), np.ones(rows, np.float32))
        plain = ClassifyBatch(ids, segments, batch.sequence_ids, *fields)
        return (classification.apply(cfg, params, plain),)
    hidden = encoder.encode(
        cfg,
        jax.tree.map(np.asarray, params),
        input_ids=ids,
        segment_ids=segments,
        sequence_ids=batch.sequence_ids,
        position_ids=every,
        key=None,
    )
    kernel, bias = params[head]["kernel"], params[head]["bias"]
    return (np.asarray(hidden) @ kernel + bias,)


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("head", HEADS)
def test_logits_match(
    tiny, head_params, small_tokenizer, tmp_path, make_batch, transformers, head, gelu
):
    cfg = dataclasses.replace(tiny, gelu=gelu)
    cfg, params = fitting(cfg, small_tokenizer, head_params(head))
    batch = make_batch(pairs=1, vocab_size=cfg.vocab_size)
    outputs = our_outputs(cfg, params, head, batch)
    folder = tmp_path / "export"
    labels = labels_of(head)
    write_huggingface(cfg, params, head, small_tokenizer, folder, labels=labels)
    mask = np.sign(batch.sequence_ids)
    assert (mask == 0).any()
    ids = (batch.input_ids, batch.segment_ids, mask)
    # Two libraries sum float32 in two orders: 2.4e-6 seen. Ten times that.
    assert verify_huggingface(folder, head, outputs, *ids) < 2.5e-5

    def changed(output, where, by):
        output = np.array(output)
        output[where] += by
        return output

    # A change counts on any real position and in every output, and on no other.
    for number in range(len(outputs)):
        others = list(outputs)
        others[number] = changed(outputs[number], (0, 0), 0.5)
        assert verify_huggingface(folder, head, others, *ids) > 0.4
        others[number] = changed(outputs[number], (0, 0), np.nan)
        assert np.isnan(verify_huggingface(folder, head, others, *ids))
    if head != "classifier":
        row, position = np.argwhere(mask == 0)[0]
        others = [changed(outputs[0], (row, position), 9.0), *outputs[1:]]
        assert verify_huggingface(folder, head, others, *ids) < 2.5e-5
    other_gelu = {"tanh": "gelu", "exact": "gelu_pytorch_tanh"}[gelu]
    config = json.loads((folder / "config.json").read_text())
    config["hidden_act"] = other_gelu
    (folder / "config.json").write_text(json.dumps(config))
    assert verify_huggingface(folder, head, outputs, *ids) > 1e-4
    with pytest.raises(ValueError, match=r"are these outputs|outputs are given"):
        verify_huggingface(folder, head, [x[..., :1] for x in outputs], *ids)


def test_verification_refuses_an_incomplete_file(
    tiny, params, small_tokenizer, tmp_path, transformers
):
    from safetensors.numpy import load_file, save_file

    cfg, params = fitting(tiny, small_tokenizer, params)
    folder = tmp_path / "export"
    write_huggingface(cfg, params, "pretraining", small_tokenizer, folder)
    whole = load_file(folder / "model.safetensors")
    ids = np.ones((1, 4), np.int32)
    name = "bert.pooler.dense.bias"
    for tensors in (
        {k: v for k, v in whole.items() if k != name},
        whole | {name: np.zeros(7, np.float32)},
        {k.replace(name, "bert.pooler.dense.bios"): v for k, v in whole.items()},
    ):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.bi"):
            verify_huggingface(folder, "pretraining", (ids, ids), ids, ids, ids)
