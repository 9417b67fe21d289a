"""The same weights in Hugging Face's PyTorch BERT give the same numbers.

The mapping below is this file's own: the exchange code has another one.
"""

import dataclasses
import functools
import os
import warnings

import jax
import numpy as np
import pytest
import reference

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.model import classification, pretraining
from bert_jax.train.losses import pretrain_loss

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        import torch
        import transformers
except ModuleNotFoundError as missing:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip(f"{missing}; install .[export]", allow_module_level=True)

REALISTIC = ModelConfig(
    vocab_size=1_000,
    hidden_size=256,
    num_layers=4,
    num_heads=4,
    mlp_size=1_024,
    max_positions=128,
)
# BERT's own initial weights are small; 0.05 leaves every tensor with some influence.
SPREAD = {"tiny": 0.2, "realistic": 0.05}


@pytest.fixture(
    params=[("tiny", "tanh"), ("tiny", "exact"), ("realistic", "exact")],
    ids="-".join,
)
def case(request, tiny):
    """(config, spread of the parameters)."""
    size, gelu = request.param
    cfg = {"tiny": tiny, "realistic": REALISTIC}[size]
    return dataclasses.replace(cfg, gelu=gelu), SPREAD[size]


def random_params(shapes: dict, spread: float) -> dict:
    flat = reference.flatten(reference.random_params(shapes))
    return reference.unflatten(
        {
            path: (x - centre) * np.float32(spread / 0.2) + centre
            for path, x in flat.items()
            for centre in [np.float32(path.endswith("scale"))]
        }
    )


def torch_state(cfg: ModelConfig, params: dict) -> dict[str, np.ndarray]:
    """Hugging Face's names and layouts: kernels are [out, in], layers apart."""
    d, flat = cfg.hidden_size, reference.flatten(params)
    state = {}

    def put(name: str, path: str, index=()) -> None:
        """One dense layer: the bias's size tells which side is the output."""
        bias = flat[f"{path}/bias"][index].ravel()
        state[f"{name}.weight"] = flat[f"{path}/kernel"][index].reshape(-1, bias.size).T
        state[f"{name}.bias"] = bias

    def put_norm(name: str, path: str, index=()) -> None:
        state[f"{name}.weight"] = flat[f"{path}/scale"][index]
        state[f"{name}.bias"] = flat[f"{path}/bias"][index]

    token = flat["embed/token/embedding"][: cfg.vocab_size]
    embeddings = "bert.embeddings"
    state[f"{embeddings}.word_embeddings.weight"] = token
    for ours, theirs in (("position", "position"), ("segment", "token_type")):
        name = f"{embeddings}.{theirs}_embeddings.weight"
        state[name] = flat[f"embed/{ours}/embedding"]
    put_norm(f"{embeddings}.LayerNorm", "embed/norm")
    for i in range(cfg.num_layers):
        theirs, ours = f"bert.encoder.layer.{i}", "layers"
        for part in ("query", "key", "value"):
            put(f"{theirs}.attention.self.{part}", f"{ours}/attention/{part}", i)
        put(f"{theirs}.attention.output.dense", f"{ours}/attention/out", i)
        put_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention/norm", i)
        put(f"{theirs}.intermediate.dense", f"{ours}/mlp/up", i)
        put(f"{theirs}.output.dense", f"{ours}/mlp/down", i)
        put_norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp/norm", i)
    put("bert.pooler.dense", "pooler")
    if "classifier" in params:
        put("classifier", "classifier")
        return state
    put("cls.predictions.transform.dense", "mlm/transform")
    put_norm("cls.predictions.transform.LayerNorm", "mlm/norm")
    put("cls.seq_relationship", "nsp")
    bias = flat["mlm/output_bias"][: cfg.vocab_size]
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"] = bias
    state["cls.predictions.decoder.weight"] = token
    assert token.shape == (cfg.vocab_size, d)
    return state


def torch_model(kind, cfg: ModelConfig, params: dict, **settings):
    """A Hugging Face model that holds `params`, in evaluation mode."""
    config = transformers.BertConfig(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        intermediate_size=cfg.mlp_size,
        max_position_embeddings=cfg.max_positions,
        type_vocab_size=cfg.num_segments,
        layer_norm_eps=cfg.layer_norm_eps,
        hidden_act={"tanh": "gelu_new", "exact": "gelu"}[cfg.gelu],
        attn_implementation="eager",
        **settings,
    )
    model = kind(config).eval()
    state = torch_state(cfg, params)
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
    model.load_state_dict(tensors, strict=True)
    return model


def one_pair_a_row(cfg: ModelConfig, make_batch):
    length = cfg.max_positions
    return make_batch(rows=3, length=length, pairs=1, vocab_size=cfg.vocab_size)


def inputs(input_ids, segment_ids, mask) -> dict:
    return {
        "input_ids": torch.tensor(np.array(input_ids), dtype=torch.long),
        "token_type_ids": torch.tensor(np.array(segment_ids), dtype=torch.long),
        "attention_mask": torch.tensor(np.array(mask), dtype=torch.long),
    }


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def run(cfg, params, batch, masked):
    outputs = pretraining.apply(cfg, params, batch, masked)
    return pretrain_loss(outputs, batch, masked)[0], outputs


def test_pretraining_logits_and_gradients_agree(case, make_batch, make_masked):
    cfg, spread = case
    params = random_params(reference.pretrain_shapes(cfg), spread)
    batch = one_pair_a_row(cfg, make_batch)
    masked = make_masked(batch)

    (loss, ours), grads = run(cfg, params, batch, masked)

    model = torch_model(transformers.BertForPreTraining, cfg, params)
    labels = np.full(batch.input_ids.shape, -100)
    for b in range(3):
        used = masked.weights[b] > 0
        labels[b, masked.positions[b, used]] = masked.labels[b, used]
    theirs = model(
        **inputs(masked.input_ids, batch.segment_ids, batch.sequence_ids > 0),
        labels=torch.tensor(labels),
        next_sentence_label=torch.tensor(batch.nsp_labels[:, 0], dtype=torch.long),
    )
    theirs.loss.backward()

    slots = theirs.prediction_logits.detach().numpy()[
        np.arange(3)[:, None], masked.positions
    ]
    nsp = theirs.seq_relationship_logits.detach().numpy()
    # Worst of 10 tiny and 5 realistic draws: 4.5e-6 here, 1.1e-6 for two classes.
    np.testing.assert_allclose(
        ours.mlm_logits[..., : cfg.vocab_size], slots, atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(ours.nsp_logits[:, 0], nsp, atol=1e-5, rtol=0)
    np.testing.assert_allclose(loss, theirs.loss.item(), rtol=1e-6)

    # The same mapping carries our gradients over. HF ties the table, so that its
    # gradient holds both uses, as ours does.
    expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
    actual = torch_state(cfg, jax.tree.map(np.asarray, grads))
    assert len(expected) > 40
    for name, want in expected.items():
        error = np.abs(actual[name] - want).max()
        if "attention.self.key.bias" in name:
            # Softmax does not see it: the true gradient is 0, both hold rounding.
            assert max(np.abs(want).max(), np.abs(actual[name]).max()) < 1e-6, name
            continue
        assert error <= 1e-4 * np.abs(want).max(), (name, error)


def test_classifier_logits_agree(case, make_batch):
    cfg, spread = case
    params = random_params(reference.classifier_shapes(cfg, 5), spread)
    rows = one_pair_a_row(cfg, make_batch)
    mask = (rows.sequence_ids > 0).astype(np.int32)
    none = np.zeros(3)
    batch = ClassifyBatch(rows.input_ids, rows.segment_ids, mask, none, none)
    ours = jax.jit(classification.apply, static_argnums=0)(cfg, params, batch)

    kind = transformers.BertForSequenceClassification
    model = torch_model(kind, cfg, params, num_labels=5)
    with torch.no_grad():
        theirs = model(**inputs(rows.input_ids, rows.segment_ids, mask)).logits
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5, rtol=0)
