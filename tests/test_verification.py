"""Steps that are computed twice: flips that no number shows."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest
from toy_training import OPTIMIZER, toy, train

from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.schedules import make_schedule
from bert_jax.train.tensors import path_name, tensors_sha256
from bert_jax.train.verification import CorruptionError, different_tensors

UP = "layers/mlp/up/kernel"
# With --loop.verify-every 12, the steps 12 and 24 are computed twice: these are the calls.
FIRST, SECOND = 12, 13


def flip(x, bit=3):
    """One bit of one number."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = bits.at[(0,) * x.ndim].set(bits[(0,) * x.ndim] ^ (1 << bit))
    return jax.lax.bitcast_convert_type(bits, x.dtype)


@jax.jit
def flipped_weight(state):
    params = jax.tree.map(lambda x: x, state.params)
    params["layers"]["mlp"]["up"]["kernel"] = flip(
        params["layers"]["mlp"]["up"]["kernel"]
    )
    return dataclasses.replace(state, params=params)


@jax.jit
def flipped_moment(state):
    def one(path, x):
        return flip(x) if path_name(path).endswith(f"nu/{UP}") else x

    moments = jax.tree_util.tree_map_with_path(one, state.opt_state)
    return dataclasses.replace(state, opt_state=moments)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return train(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def flipped_gradient():
    """The same step, in which one gradient has another bit."""

    def flip_one(updates, params=None):
        def one(path, x):
            return flip(x, 24) if path[0].key == "layers" else x

        return jax.tree_util.tree_map_with_path(one, updates)

    plain = make_optimizer(OPTIMIZER, make_schedule(OPTIMIZER, 24))
    optimizer = optax.GradientTransformation(
        plain.init, lambda g, s, p: plain.update(flip_one(g), s, p)
    )
    return toy(optimizer=optimizer).step


@pytest.mark.parametrize(
    ("what", "when"),
    [("weight", FIRST), ("weight", SECOND), ("moment", FIRST), ("gradient", SECOND)],
)
def test_a_planted_flip_is_found_named_and_leaves_no_trace(
    tmp_path, clean, flipped_gradient, what, when, capsys
):
    calls = []

    def step(state, batch):
        calls.append(None)
        if len(calls) != when:
            return toy().step(state, batch)
        if what == "gradient":
            return flipped_gradient(state, batch)
        state, metrics = toy().step(state, batch)
        return {"weight": flipped_weight, "moment": flipped_moment}[what](
            state
        ), metrics

    found = train(tmp_path, step=step, verify_every=12)
    assert len(calls) == 24 + 2 + 1
    assert tensors_sha256(found.state) == tensors_sha256(clean.state)
    (line,) = [x for x in read_metrics(tmp_path) if x["kind"] == "corrupted"]
    assert line["step"] == 12
    assert line["tensor"].endswith(UP)
    assert ("nu/" in line["tensor"]) == (what == "moment") or what == "gradient"
    assert f"two results of this step differ in {line['tensor']}" in (
        capsys.readouterr().out
    )


def test_three_results_that_all_differ_end_the_run(tmp_path):
    calls = []

    def step(state, batch):
        calls.append(None)
        state, metrics = toy().step(state, batch)
        for _ in range(len(calls) - 11):
            state = jax.jit(
                lambda s: dataclasses.replace(
                    s, params=jax.tree.map(lambda x: x + 1e-3, s.params)
                )
            )(state)
        return state, metrics

    with pytest.raises(CorruptionError, match="Three results of one step"):
        train(tmp_path, step=step, verify_every=12)


def test_every_bit_counts_also_those_of_nan_and_zero():
    one = {"a": jnp.array([0.0, jnp.nan]), "n": jnp.arange(3)}
    assert different_tensors((one, {}), (one, {})) == []
    minus = {**one, "a": jnp.array([-0.0, jnp.nan])}
    assert different_tensors((one, {}), (minus, {})) == ["a"]
    more = {**one, "n": jnp.arange(3).at[1].set(7)}
    assert different_tensors((one, {}), (more, {})) == ["n"]
