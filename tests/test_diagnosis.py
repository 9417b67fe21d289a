"""Where a step goes wrong, found in a BERT."""

import functools
import re

import jax
import numpy as np
import optax
import pytest

from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    MaskingConfig,
    MeshConfig,
    ModelConfig,
)
from bert_jax.model import pretraining
from bert_jax.train.diagnosis import diagnose, in_a_row
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import pretrain_objective
from bert_jax.train.step import init_state

MODEL = ModelConfig(
    vocab_size=61,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    mlp_size=12,
    max_positions=16,
)


@pytest.fixture(scope="module")
def state():
    init = functools.partial(pretraining.init_params, MODEL)
    made = jax.jit(lambda: init_state(init, optax.sgd(0.1), 0))()
    return jax.tree.map(np.array, made)


@pytest.fixture
def find(state, make_batch, vocabulary):
    """find(path, value, dtype): the diagnosis with a value in the tensor of that path."""

    def find(path, value, dtype="float32", layer=()):
        compute = in_a_row(ComputeConfig(dtype=dtype, scan_layers=True, remat="full"))
        objective = pretrain_objective(
            MODEL, compute, DropoutConfig(), MaskingConfig(), vocabulary
        )
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        params = jax.tree.map(np.array, state.params)
        leaf = functools.reduce(dict.__getitem__, path.split("/"), params)
        leaf[layer] = value(leaf[layer])
        batch = make_batch(rows=2, length=16, pairs=1)
        made = type(state)(state.step, params, state.opt_state, state.key)
        return diagnose(objective, mesh, jax.device_put(made), batch)

    return find


def test_a_weight_that_is_not_finite_is_named_with_its_layer(find):
    def one_bad(x):
        x[3, 5] = np.inf
        return x

    assert find("layers/mlp/up/kernel", one_bad, layer=1) == (
        "Before the step, weights or moments are not finite already; the first is "
        "layers/mlp/up/kernel of layer 2 (1 of 96 numbers). The batch is not to blame."
    )


def spoilt(x):
    """Numbers that are finite, and too large for a sum of them."""
    return np.where(x > 0, 3e38, -3e38)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_activations_that_are_not_finite_are_named(find, dtype):
    said = find("layers/attention/value/kernel", spoilt, dtype, layer=1)
    assert said.startswith(
        "Forward, weights and moments are finite, and the first activations that are not "
        "are the values of layer 2: "
    )


def test_the_first_gradients_that_are_not_finite_are_named(find):
    """Forward, the norm divides such numbers away; the slope of GELU takes their square."""

    def large(x):
        return np.where(x > 0, 1e30, -1e30)

    said = find("layers/mlp/up/kernel", large, layer=1)
    assert re.sub(r"finite, [\d.]+", "finite", said).startswith(
        "Backward, the loss is finite, and gradients are not; the first on the way back from "
        "it is that of layers/mlp/up/kernel of layer 2 (96 of 96 numbers), and"
    )


def test_what_lies_behind_the_layers_is_named(find):
    said = find("mlm/output_bias", lambda x: np.where(np.arange(x.size) == 7, 3e38, x))
    assert "behind them, in the heads, mlm_loss is not" in said


@pytest.mark.slow(ci=False)
def test_a_sound_step_is_called_sound(find):
    said = find("embed/norm/bias", lambda x: x)
    assert said.startswith(
        "All activations and gradients are finite here, and so is the"
    )
