"""The same weights in Hugging Face's PyTorch BERT give the same numbers.

The mapping below is this file's own: the exchange code has another one.
"""

import dataclasses
import functools
import math
import os
import warnings

import jax
import numpy as np
import pytest
import reference

from bert_jax.config import ModelConfig
from bert_jax.family import SIZES, VOCABULARIES, model_config
from bert_jax.model import pretraining
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
HEAD_NAMES = {"classifier": "classifier", "tokens": "classifier", "spans": "qa_outputs"}
# BERT's own initial weights are small; 0.05 leaves every tensor with some influence.
SPREAD = {"tiny": 0.2, "realistic": 0.05}


@pytest.fixture(
    params=[
        ("tiny", "tanh"),
        ("tiny", "exact"),
        pytest.param(("realistic", "exact"), marks=pytest.mark.slow(ci=False)),
    ],
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
    if "pooler" in params:
        put("bert.pooler.dense", "pooler")
    for ours, theirs in HEAD_NAMES.items():
        if ours in params:
            put(theirs, ours)
            return state
    put("cls.predictions.transform.dense", "mlm/transform")
    put_norm("cls.predictions.transform.LayerNorm", "mlm/norm")
    put("cls.seq_relationship", "nsp")
    bias = flat["mlm/output_bias"][: cfg.vocab_size]
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"] = bias
    state["cls.predictions.decoder.weight"] = token
    assert token.shape == (cfg.vocab_size, d)
    return state


def torch_config(cfg: ModelConfig, **settings) -> "transformers.BertConfig":
    return transformers.BertConfig(
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


def torch_model(kind, cfg: ModelConfig, params: dict, **settings):
    """A Hugging Face model that holds `params`, in evaluation mode."""
    with transformers.initialization.no_init_weights():
        model = kind(torch_config(cfg, **settings)).eval()
    model.tie_weights()  # not done without initial weights
    state = torch_state(cfg, params)
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
    model.load_state_dict(tensors, strict=True)
    return model


def assert_gradients_agree(cfg, grads: dict, model, nothing: tuple = ()) -> None:
    """Each tensor within 1e-4 of its largest entry, but for those that are zero.

    Softmax does not see a key bias, so its true gradient is 0 and both sides hold
    rounding; `nothing` names more of that kind.

    The same mapping carries our gradients over. Hugging Face ties the token table, so
    that its gradient holds both uses, as ours does.
    """
    expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
    actual = torch_state(cfg, jax.tree.map(np.asarray, grads))
    assert len(expected) > 16 * cfg.num_layers
    for name, want in expected.items():
        error = np.abs(actual[name] - want).max()
        if name.endswith(("attention.self.key.bias", *nothing)):
            assert max(np.abs(want).max(), np.abs(actual[name]).max()) < 1e-6, name
            continue
        assert error <= 1e-4 * np.abs(want).max(), (name, error)


def token_labels(batch, masked) -> np.ndarray:
    """Hugging Face's form of the masked slots: [B, T], -100 where nothing is hidden."""
    labels = np.full(batch.input_ids.shape, -100)
    for b in range(len(labels)):
        used = masked.weights[b] > 0
        labels[b, masked.positions[b, used]] = masked.labels[b, used]
    return labels


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
@jax.default_matmul_precision("highest")
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def run(cfg, params, batch, masked):
    """((loss, outputs), gradients)"""
    outputs = pretraining.apply(cfg, params, batch, masked)
    return pretrain_loss(outputs, batch, masked)[0], outputs


def test_pretraining_logits_and_gradients_agree(case, make_batch, make_masked):
    cfg, spread = case
    params = random_params(reference.pretrain_shapes(cfg), spread)
    batch = one_pair_a_row(cfg, make_batch)
    masked = make_masked(batch)

    (loss, ours), grads = run(cfg, params, batch, masked)

    model = torch_model(transformers.BertForPreTraining, cfg, params)
    theirs = model(
        **inputs(masked.input_ids, batch.segment_ids, batch.sequence_ids > 0),
        labels=torch.tensor(token_labels(batch, masked)),
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

    assert_gradients_agree(cfg, grads, model)


@pytest.mark.parametrize(
    ("size", "vocabulary"),
    [*((size, "uncased") for size in SIZES), *(("tiny", v) for v in VOCABULARIES)],
)
def test_every_size_has_as_many_parameters_as_in_transformers(size, vocabulary):
    cfg = model_config(size, vocabulary=vocabulary)
    with torch.device("meta"):  # names and shapes only
        model = transformers.BertForPreTraining(torch_config(cfg))
    init = functools.partial(pretraining.init_params, cfg)
    shapes = jax.eval_shape(init, jax.random.key(0))
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    padding = (cfg.padded_vocab_size - cfg.vocab_size) * (cfg.hidden_size + 1)
    assert total - padding == model.num_parameters()
