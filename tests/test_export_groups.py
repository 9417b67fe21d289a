"""Exports of multiple choice and of sentence embeddings, run by other libraries."""

import functools
import json
import os
import types

import jax
import numpy as np
import pytest
from portable_models import TOKENIZER

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig, ModelConfig, PretrainConfig, TaskConfig
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.exchange import quantized
from bert_jax.exchange.export import export_model
from bert_jax.exchange.heads import head_of_run
from bert_jax.exchange.portable import INPUTS, VECTORS, PortableModel
from bert_jax.exchange.read_huggingface import read_huggingface
from bert_jax.exchange.tensors import unflatten
from bert_jax.model import sentence_embedding
from bert_jax.model.encoder import init_encoder
from bert_jax.model.text_heads import CHOICE
from bert_jax.train.tensors import named_leaves

HEADS = ("choice", "mean_vector", "cls_vector")


@pytest.fixture(scope="module")
def sentence_transformers(transformers):
    try:
        import sentence_transformers
    except ModuleNotFoundError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing}; install .[export]")
    return sentence_transformers


@pytest.fixture(scope="module")
def made():
    """made(head): a model of two layers, random in every number."""
    cfg = ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        mlp_size=48,
        max_positions=24,
    )

    def call(head, **options):
        head_init = functools.partial(CHOICE.init_params, num_labels=0)
        init = head_init if head == "choice" else init_encoder
        key = jax.random.key(0)
        shapes = flatten_shapes(jax.eval_shape(lambda: init(cfg, key=key)))
        draw = np.random.default_rng(1).normal
        params = {
            path: draw(0.0, 0.2, shape).astype(np.float32)
            for path, shape in shapes.items()
        }
        options = {"sequence_length": 16, **options}
        return PortableModel(cfg, unflatten(params), head, TOKENIZER, **options)

    return call


def flatten_shapes(tree):
    return {name: leaf.shape for name, leaf in named_leaves(tree).items()}


def agrees(found):
    """What the export says of its comparison; a wrong one would have been refused."""
    assert found["differences"]
    return all(x["largest"] <= x["allowed"] for x in found["differences"].values())


def test_choices_are_those_of_transformers(made, tmp_path, hf, silent):
    assert agrees(export_model(made("choice"), tmp_path, "huggingface"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForMultipleChoice"]
    # Two examples of three choices, as transformers takes them.
    model = hf.AutoModelForMultipleChoice.from_pretrained(tmp_path).eval()
    ids = hf.torch.randint(5, 40, (2, 3, 9))
    with hf.torch.no_grad():
        assert model(input_ids=ids).logits.shape == (2, 3)
    # The encoder of such a model can be imported.
    assert read_huggingface(tmp_path).head == "choice"


@pytest.mark.parametrize("head", HEADS[1:])
def test_vectors_are_those_of_sentence_transformers(
    made, tmp_path, head, sentence_transformers, silent
):
    model = made(head)
    assert agrees(export_model(model, tmp_path, "huggingface"))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded.max_seq_length == 16
    assert loaded.similarity_fn_name == "cosine"
    assert "library_name: sentence-transformers" in (tmp_path / "README.md").read_text()
    texts = ["river stone", "r", "stone " * 30]  # the last one is cut
    rows = encode_texts(TOKENIZER, [(x,) for x in texts], np.zeros(3, np.int32), 16)
    assert rows.num_cut == 1
    batch = rows.batch(np.arange(3), 3)
    apply = functools.partial(sentence_embedding.apply, model.cfg)
    ours = jax.jit(functools.partial(apply, pooling=VECTORS[head]))(model.params, batch)
    np.testing.assert_allclose(loaded.encode(texts), ours, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_program_of_stablehlo_gives_the_same(made, tmp_path, head):
    model = made(head, hidden_states=True)
    found = export_model(model, tmp_path, "stablehlo")
    assert agrees(found)
    name = "logits" if head == "choice" else "sentence_embedding"
    assert found["differences"].keys() == {name, "last_hidden_state"}


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("head", HEADS)
def test_a_graph_of_onnx_gives_the_same(made, tmp_path, head, hf):
    pytest.importorskip("onnxscript", reason="install .[onnx]")
    model = made(head, hidden_states=head != "cls_vector")
    found = export_model(model, tmp_path, "onnx")
    assert agrees(found)
    assert ("last_hidden_state" in found["differences"]) == model.hidden_states


def test_the_head_of_a_run_is_that_of_its_pooling():
    task = TaskConfig(kind="embeddings", pooling="cls")
    assert head_of_run(FinetuneConfig(task=task)) == "cls_vector"
    assert head_of_run(FinetuneConfig()) == "classifier"
    assert head_of_run(PretrainConfig()) == "pretraining"


def test_a_graph_takes_the_rows_of_groups_one_by_one():
    """Two examples of three choices, of which the second lacks the last one."""
    mask = np.ones((2, 3, 4), np.int32)
    mask[1, 2] = 0
    ids = np.arange(24).reshape(2, 3, 4) * mask
    given = {}

    class Session:
        def get_inputs(self):
            return [types.SimpleNamespace(name=name) for name in INPUTS]

        def get_outputs(self):
            names = ("logits", "last_hidden_state")
            return [types.SimpleNamespace(name=name) for name in names]

        def run(self, names, feeds):
            assert names == ["logits"]
            given.update(feeds)
            return [feeds["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)]

    batch = ClassifyBatch(ids, 0 * ids, mask, labels=None, weights=None)
    found = quantized._of_batch(Session(), batch)
    assert given["input_ids"].shape == (5, 4)
    np.testing.assert_array_equal(found[0], ids[0].sum(axis=-1))
    np.testing.assert_array_equal(found[1, :2], ids[1, :2].sum(axis=-1))
    assert found[1, 2] < -1e6
