"""The average of the parameters: its weights, its place, and who reads it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import MeshConfig, OptimizerConfig
from bert_jax.model import pretraining
from bert_jax.train.averaging import AVERAGE, averaged, with_average
from bert_jax.train.mesh import make_mesh
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import Checkpoints, Identity
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import TrainState, abstract_state, init_state

CFG = OptimizerConfig(learning_rate=0.05, warmup_steps=3, name="muon", ema_decay=0.8)
SHA = "a" * 64
PARAMS = {
    "embed": {"token": {"embedding": np.linspace(-1, 1, 24, dtype=np.float32)}},
    "layers": {"up": {"kernel": np.ones((2, 4, 6), np.float32)}},
    "nsp": {"bias": np.zeros(3, np.float32)},
}


def run(cfg, num_steps):
    """The parameters after each update, and the last state of the optimizer."""
    optimizer = make_optimizer(cfg, make_schedule(cfg, max(num_steps, 10)))

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    rng, params, state, seen = np.random.default_rng(0), PARAMS, None, []
    state = optimizer.init(params)
    for _ in range(num_steps):
        grads = jax.tree.map(
            lambda x: rng.normal(size=x.shape).astype(np.float32), params
        )
        params, state = step(params, state, grads)
        seen.append(jax.device_get(params))
    return seen, state


@pytest.mark.parametrize("num_steps", [1, 50])
def test_fifty_updates_have_the_weights_of_an_exponential_mean(num_steps):
    seen, state = run(CFG, num_steps)
    plain, _ = run(dataclasses.replace(CFG, ema_decay=None), num_steps)
    jax.tree.map(np.testing.assert_array_equal, seen[-1], plain[-1])
    weights = 0.8 ** np.arange(num_steps - 1, -1, -1)
    found = averaged(TrainState(jnp.int32(num_steps), seen[-1], state, None)).params
    for ours, *each in zip(*map(jax.tree.leaves, (found, *seen)), strict=True):
        expected = np.average(np.stack(each), axis=0, weights=weights)
        # Float32 against float64; worst seen 4e-7.
        np.testing.assert_allclose(ours, expected, atol=2e-6, rtol=0)


def test_what_is_frozen_is_its_own_average_bit_by_bit():
    cfg = dataclasses.replace(CFG, freeze=("embed",), freeze_layers=1)
    seen, state = run(cfg, 7)
    mean = state[AVERAGE].mean
    for part in (lambda x: x["embed"]["token"]["embedding"], first_layer):
        np.testing.assert_array_equal(part(mean), part(seen[-1]))
        np.testing.assert_array_equal(part(mean), part(PARAMS))
    assert np.abs(mean["nsp"]["bias"]).max() > 0


def first_layer(params):
    return params["layers"]["up"]["kernel"][0]


@pytest.mark.parametrize("step", [0, 2])
def test_parameters_without_an_update_are_not_averaged(step):
    """They may have been read from a checkpoint; at step 2 both updates were skipped."""
    state = with_average(optax.sgd(0.1), 0.9).init(PARAMS)
    begun = TrainState(jnp.int32(step), PARAMS, state, None)
    assert averaged(begun) is begun


def test_a_run_without_an_average_is_judged_as_it_is():
    state = TrainState(jnp.int32(3), PARAMS, optax.adam(0.1).init(PARAMS), None)
    assert averaged(state) is state


@pytest.fixture(scope="module")
def state(tiny, random_params):
    """A state on eight devices, whose average is not its parameters."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    optimizer = make_optimizer(CFG, make_schedule(CFG, 100))

    def make_state():
        init = functools.partial(pretraining.init_params, tiny)
        return init_state(init, optimizer, 0)

    abstract = abstract_state(make_state, mesh)
    params = random_params(tiny)
    opt_state = jax.tree.map(lambda x: x + 1 + x.size, optimizer.init(params))
    drawn = TrainState(jnp.int32(0), params, opt_state, jnp.zeros(2, jnp.uint32))
    return jax.device_put(drawn, jax.tree.map(lambda leaf: leaf.sharding, abstract))


def abstract_of(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def test_the_average_lives_where_the_parameters_live(state):
    for ours, mean in zip(
        jax.tree.leaves(state.params),
        jax.tree.leaves(state.opt_state[AVERAGE].mean),
        strict=True,
    ):
        assert ours.sharding == mean.sharding


@pytest.mark.parametrize("age", [0, 7])
def test_other_commands_read_the_average_and_a_resumed_run_reads_both(
    state, tiny, tmp_path, age
):
    """The first two updates were skipped."""
    average = state.opt_state[AVERAGE]
    average = average._replace(age=average.age * 0 + age)
    opt_state = {**state.opt_state, AVERAGE: average}
    state = dataclasses.replace(state, step=state.step + 2 + age, opt_state=opt_state)
    with Checkpoints(tmp_path, Identity(tiny, SHA)) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    abstract = abstract_of(state)
    with Checkpoints(tmp_path, Identity(tiny, SHA), read_only=True) as checkpoints:
        whole = checkpoints.restore(abstract)
        taken = checkpoints.restore_params(abstract.params)
        plain = checkpoints.restore_params(abstract.params, averaged=False)
    jax.tree.map(np.testing.assert_array_equal, whole, state)
    jax.tree.map(np.testing.assert_array_equal, plain, state.params)
    expected = average.mean if age else state.params
    jax.tree.map(np.testing.assert_array_equal, taken, expected)
    assert jax.tree.map(lambda x: x.sharding, taken) == jax.tree.map(
        lambda x: x.sharding, abstract.params
    )


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_share_that_averages_nothing_is_an_error(decay):
    with pytest.raises(ValueError, match=r"ema_decay=\S+ is not between 0 and 1"):
        OptimizerConfig(ema_decay=decay)
