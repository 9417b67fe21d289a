"""The two tables: every parameter has a place, and every layout trains alike."""

import functools

import jax
import numpy as np
import optax
import pytest

from bert_jax.config import MaskingConfig, MeshConfig, OptimizerConfig
from bert_jax.model import classification, pretraining
from bert_jax.train import sharding
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import pretrain_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import to_devices
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, compile_step, init_state

LAYOUTS = (
    MeshConfig(data=8),
    MeshConfig(data=1, fsdp=8),
    MeshConfig(data=4, tensor=2),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=-1, fsdp=2),
)
NUM_STEPS = 5


@pytest.fixture(scope="module")
def run(tiny, vocabulary, make_batch):
    """run(mesh config, devices) -> (losses of some steps, last state, step)."""
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
    optimizer = make_optimizer(settings, make_schedule(settings, 20))
    objective = pretrain_objective(tiny, MaskingConfig(), vocabulary)

    def make(layout, num_devices=8, steps=NUM_STEPS):
        mesh = make_mesh(layout, jax.devices()[:num_devices])

        def make_state():
            init = functools.partial(pretraining.init_params, tiny)
            return init_state(init, optimizer, 0)

        abstract = abstract_state(make_state, mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = jax.jit(make_state, out_shardings=places)()
        step = compile_step(objective, optimizer, mesh, abstract)
        losses = []
        for number in range(steps):
            batch = make_batch(rows=8, seed=number)
            state, metrics = step(state, to_devices(mesh, batch))
            losses.append(float(metrics["loss"].value()))
        return losses, state, step

    return make


@pytest.fixture(scope="module")
def one_device(run):
    return run(MeshConfig(), num_devices=1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_trains_to_the_losses_of_one_device(run, one_device, layout):
    losses, state, step = run(layout)
    # Dropout is on: masks and dropout do not depend on the layout either.
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    for ours, expected in zip(
        jax.tree.leaves(state.params),
        jax.tree.leaves(one_device[1].params),
        strict=True,
    ):
        # Adam divides by the root of tiny second moments: worst seen 2e-5.
        np.testing.assert_allclose(ours, expected, atol=2e-4)
    assert step._cache_size() == 1, "the step was traced more than once"


def test_heads_split_over_tensor_and_moments_follow(run):
    _, state, _ = run(MeshConfig(data=2, fsdp=2, tensor=2), steps=1)
    for tree in (state.params, state.opt_state.mu, state.opt_state.nu):
        kernel = tree["layers"]["attention"]["query"]["kernel"]
        # [L, D, N, H]: width over fsdp, heads over tensor.
        assert kernel.sharding.shard_shape(kernel.shape) == (3, 16, 2, 8)
        table = tree["embed"]["token"]["embedding"]
        assert table.sharding.shard_shape(table.shape) == (32, 32)


def test_every_parameter_of_both_models_has_a_row(tiny):
    trees = (
        jax.eval_shape(lambda: pretraining.init_params(tiny, jax.random.key(0))),
        jax.eval_shape(lambda: classification.init_params(tiny, 3, jax.random.key(0))),
    )
    for tree in trees:
        specs = sharding.param_specs(tree)
        assert len(jax.tree.leaves(specs)) == len(jax.tree.leaves(tree))


def test_an_unknown_parameter_is_an_error():
    tree = {"adapter": {"kernel": jax.ShapeDtypeStruct((4, 4), np.float32)}}
    with pytest.raises(ValueError, match=r"adapter/kernel.*\(4, 4\).*Add one"):
        sharding.param_specs(tree)


def test_a_row_of_the_wrong_rank_is_an_error():
    tree = {"pooler": {"kernel": jax.ShapeDtypeStruct((4, 4, 4), np.float32)}}
    with pytest.raises(ValueError, match="pooler/kernel"):
        sharding.param_specs(tree)


def test_heads_that_tensor_does_not_divide_are_an_error(tiny):
    mesh = make_mesh(MeshConfig(tensor=8))
    tree = jax.eval_shape(lambda: pretraining.init_params(tiny, jax.random.key(0)))
    with pytest.raises(ValueError, match=r"tensor.*8 parts"):
        sharding.shardings(mesh, tree)


def test_a_mesh_of_other_size_than_the_machine_is_an_error():
    with pytest.raises(ValueError, match=r"data=1 \* fsdp=3 .* but 8 are visible"):
        make_mesh(MeshConfig(data=1, fsdp=3, tensor=2))


def test_rows_that_the_mesh_cannot_share_are_an_error():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    with pytest.raises(ValueError, match=r"batch_size=6 .* multiple of 4"):
        sharding.check_batch_size(mesh, 6)


def test_adamw_matches_a_plain_numpy_adamw():
    cfg = OptimizerConfig(learning_rate=1e-2, warmup_steps=3)
    optimizer = make_optimizer(cfg, make_schedule(cfg, 10))
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (2, 4), "scale": (4,)}
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    state = optimizer.init(params)
    ours = params
    expected = {n: p.astype(np.float64) for n, p in params.items()}
    m = {n: np.zeros(s) for n, s in shapes.items()}
    v = {n: np.zeros(s) for n, s in shapes.items()}
    for step in range(10):
        grads = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        updates, state = optimizer.update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)

        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
        rate = 1e-2 * (step / 3 if step < 3 else 1 - step / 10)
        for n in shapes:
            g = grads[n] / max(norm, 1.0)
            m[n] = 0.9 * m[n] + 0.1 * g
            v[n] = 0.999 * v[n] + 0.001 * g * g
            decay = 0.01 * expected[n] if n == "kernel" else 0.0
            expected[n] = expected[n] - rate * (m[n] / (np.sqrt(v[n]) + 1e-6) + decay)
    for n in shapes:
        # Worst over these ten steps: 4e-7.
        np.testing.assert_allclose(ours[n], expected[n], atol=5e-6)
