"""Dropout: where it acts, how often, and from which key.

With an enormous epsilon and scales of its square root, a layer norm only takes the mean
off, so what was dropped can be read from the hidden states.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
import reference

from bert_jax.config import DropoutConfig
from bert_jax.model import pretraining
from bert_jax.model.text_heads import CLASSIFIER

RATE = 0.25
SITES = ("embed/norm", "layers/attention/out", "layers/mlp/down")

NEVER = DropoutConfig(hidden=0.0, attention=0.0)

apply = jax.jit(
    pretraining.apply, static_argnums=0, static_argnames=("compute", "dropout")
)


@pytest.fixture
def open_model(tiny, random_params, make_batch, make_masked):
    """open_model(tensors, rates) -> hidden states [B, T, D], unit 0 taken off.

    Every tensor is zero but the norms' scales and the given ones.
    """
    batch = make_batch(rows=16)
    masked = make_masked(batch)

    def run(tensors: dict, **rates) -> np.ndarray:
        cfg = dataclasses.replace(tiny, layer_norm_eps=1e6)
        dropout = dataclasses.replace(NEVER, **rates)
        flat = reference.flatten(random_params(cfg))
        flat = {
            path: np.full_like(x, 1e3 if path.endswith("norm/scale") else 0)
            for path, x in flat.items()
        } | tensors
        params, key = reference.unflatten(flat), jax.random.key(0)
        outputs = apply(cfg, params, batch, masked, dropout=dropout, key=key)
        hidden = np.asarray(outputs.hidden)
        return hidden - hidden[..., :1]

    run.batch = batch
    return run


def ones_but_the_first(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.arange(shape[-1]) > 0, shape).astype(np.float32)


def assert_binomial(count: float, trials: int, rate: float) -> None:
    """Five standard deviations: one false alarm in two million."""
    assert abs(count - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate))


@pytest.mark.parametrize("site", SITES)
def test_hidden_dropout_zeroes_its_share_and_keeps_the_mean(open_model, site):
    shape = (32,) if site == "embed/norm" else (3, 32)
    bias = ones_but_the_first(*shape)
    if len(shape) == 2:
        bias[1:] = 0.0  # the first layer only
    units = open_model({f"{site}/bias": bias}, hidden=RATE)[..., 1:]
    zero = np.isclose(units, 0, atol=1e-4)
    kept = np.isclose(units, 1 / (1 - RATE), atol=1e-4)
    assert (zero | kept).all()
    assert_binomial(zero.sum(), zero.size, RATE)
    # Neither a whole unit, nor a whole token, nor a whole row goes at once.
    for axis in range(3):
        other = tuple(i for i in range(3) if i != axis)
        spread = np.abs(zero.mean(other) - RATE).max()
        assert spread < 6 * math.sqrt(RATE * (1 - RATE) * zero.shape[axis] / zero.size)


def test_every_site_and_layer_drops_on_its_own(open_model):
    biases = {
        f"{site}/bias": ones_but_the_first(
            *((32,) if site == "embed/norm" else (3, 32))
        )
        for site in SITES
    }
    units = open_model(biases, hidden=RATE)[..., 1:]
    kept = units * (1 - RATE)
    np.testing.assert_allclose(kept, kept.round(), atol=1e-3)
    # Seven independent draws: 1 of the embeddings, 2 in each of 3 layers.
    for number in range(8):
        share = math.comb(7, number) * (1 - RATE) ** number * RATE ** (7 - number)
        assert_binomial((kept.round() == number).sum(), kept.size, share)


def test_attention_dropout_drops_weights(open_model):
    # Equal scores and values of one: a head gives (kept tokens) / (n (1 - rate)).
    # Head n writes it to unit n + 1, in the first layer only.
    value_bias = np.zeros((3, 4, 8), np.float32)
    value_bias[0, :, 0] = 1.0
    out = np.zeros((3, 4, 8, 32), np.float32)
    for n in range(4):
        out[0, n, 0, n + 1] = 1.0
    tensors = {
        "layers/attention/value/bias": value_bias,
        "layers/attention/out/kernel": out,
    }
    sums = open_model(tensors, attention=RATE)[..., 1:5]
    sequence = open_model.batch.sequence_ids
    sizes = (sequence[:, :, None] == sequence[:, None]).sum(-1)[..., None]
    kept = sums * sizes * (1 - RATE)
    np.testing.assert_allclose(kept, kept.round(), atol=1e-3)
    assert_binomial(kept.round().sum(), 4 * sizes.sum(), 1 - RATE)
    # A draw of its own for each head, query and key: the variance is binomial too.
    deviations = (kept - sizes * (1 - RATE)) / np.sqrt(sizes * RATE * (1 - RATE))
    assert abs((deviations**2).mean() - 1) < 5 * math.sqrt(2 / deviations.size)


def test_the_classifier_drops_pooled_units(tiny, make_classify_batch):
    # No encoder dropout reaches the pooled vector here: its kernel is zero.
    rows = 256
    batch = jax.tree.map(
        lambda x: np.resize(x, (rows, *x.shape[1:])), make_classify_batch()
    )
    params = reference.random_params(reference.classifier_shapes(tiny, 32))
    params["pooler"]["kernel"][...] = 0.0
    params["pooler"]["bias"][...] = 0.5
    params["classifier"] = {
        "kernel": np.eye(32, dtype=np.float32),
        "bias": np.zeros(32, np.float32),
    }
    run = functools.partial(CLASSIFIER.apply, tiny, params, batch)
    dropout = DropoutConfig(hidden=RATE, attention=0.0)
    units = run(key=jax.random.key(0), dropout=dropout) / math.tanh(0.5)
    zero = np.isclose(units, 0)
    assert (zero | np.isclose(units, 1 / (1 - RATE), atol=1e-5)).all()
    assert_binomial(zero.sum(), zero.size, RATE)
    # The encoder drops at the same rates.
    params["pooler"]["kernel"][...] = np.eye(32)
    still = run(key=jax.random.key(0), dropout=NEVER)
    np.testing.assert_array_equal(still, run())
    assert (run(key=jax.random.key(0)) != still).any()


def test_dropout_follows_its_key(tiny, random_params, make_batch, make_masked):
    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)

    def hidden(seed, dropout=DropoutConfig()):
        key = None if seed is None else jax.random.key(seed)
        outputs = apply(tiny, params, batch, masked, dropout=dropout, key=key)
        return np.asarray(outputs.hidden)

    np.testing.assert_array_equal(hidden(None), hidden(None))
    np.testing.assert_array_equal(hidden(0), hidden(0))
    assert (hidden(0) != hidden(1)).any(axis=(1, 2)).all()
    assert (hidden(0) != hidden(None)).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(hidden(0, NEVER), hidden(None))
