"""Gradients added up over micro-batches are those of the whole batch."""

import dataclasses

import jax
import numpy as np
import pytest

from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    MaskingConfig,
    MeshConfig,
    OptimizerConfig,
)
from bert_jax.model import pretraining
from bert_jax.train import sharding
from bert_jax.train.accumulation import mean_gradients
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import pretrain_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import to_devices
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, compile_step, init_state


@pytest.fixture(scope="module")
def tiny(tiny):
    """Of one layer: every one more is compiled again."""
    return dataclasses.replace(tiny, num_layers=1)


@pytest.fixture(scope="module")
def uneven(make_batch):
    """16 rows; from the ninth on, hardly a token is real and no pair has a label."""
    batch = make_batch(rows=16)
    short = np.arange(16)[:, None] >= 8
    beyond = short & (np.arange(batch.input_ids.shape[1])[None] >= 5)
    return batch._replace(
        sequence_ids=np.where(beyond, 0, batch.sequence_ids),
        nsp_weights=np.where(short, 0, batch.nsp_weights).astype(np.float32),
    )


@pytest.fixture(scope="module")
def gradients(tiny, random_params, vocabulary, uneven):
    """gradients(micro-batches, devices) -> (metrics, gradients), dropout on."""
    objective = pretrain_objective(
        tiny, ComputeConfig(), DropoutConfig(), MaskingConfig(), vocabulary
    )
    params = random_params(tiny)

    def run(micro_batches, num_devices=1):
        mesh = make_mesh(MeshConfig(), jax.devices()[:num_devices])

        def step(params, batch):
            with sharding.on_mesh(mesh):
                rows = objective.prepare(batch, jax.random.key(1), 0)
                return mean_gradients(objective, params, rows, micro_batches)

        return jax.jit(step)(params, to_devices(mesh, uneven))

    return run


@pytest.fixture(scope="module")
def whole(gradients):
    return gradients(1)


@pytest.mark.parametrize(("parts", "num_devices"), [(16, 1), (2, 8)])
def test_micro_batches_add_up_to_the_whole_batch(gradients, whole, parts, num_devices):
    metrics, grads = gradients(parts, num_devices)
    assert metrics.keys() == whole[0].keys()
    for name, found in metrics.items():
        for ours, expected in zip(found, whole[0][name], strict=True):
            # Sums of some hundred float32 losses differ by their order.
            np.testing.assert_allclose(ours, expected, rtol=2e-6)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(whole[1]))
    for ours, expected in zip(
        jax.tree.leaves(grads), jax.tree.leaves(whole[1]), strict=True
    ):
        # Another order of additions, and a gradient of zero (the keys' biases) that is
        # made of rounding alone.
        atol = 3e-6 * np.abs(expected).max() + 1e-7 * largest
        np.testing.assert_allclose(ours, expected, atol=atol, rtol=0)


def test_a_mean_of_means_would_be_seen(gradients, whole, uneven, tiny, vocabulary):
    # Halves of unequal weight: the mean of their losses is not that of the batch.
    objective = pretrain_objective(
        tiny, ComputeConfig(), DropoutConfig(), MaskingConfig(), vocabulary
    )
    rows = objective.prepare(uneven, jax.random.key(1), 0)
    weights = [
        objective.weights(jax.tree.map(lambda x, n=n: x[8 * n : 8 * n + 8], rows))
        for n in range(2)
    ]
    assert weights[0]["mlm_loss"] > 2 * weights[1]["mlm_loss"]
    assert weights[1]["nsp_loss"] == 0


@pytest.mark.slow(ci=False)
def test_one_update_in_parts_is_one_update(tiny, vocabulary, make_batch):
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, clip_norm=0.1)
    optimizer = make_optimizer(settings, make_schedule(settings, 10))
    objective = pretrain_objective(
        tiny, ComputeConfig(), DropoutConfig(), MaskingConfig(), vocabulary
    )
    mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])

    def make_state():
        return init_state(lambda key: pretraining.init_params(tiny, key), optimizer, 0)

    abstract = abstract_state(make_state, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    found = []
    for parts in (1, 4):
        state = jax.jit(make_state, out_shardings=places)()
        step = compile_step(objective, optimizer, mesh, abstract, micro_batches=parts)
        for number in range(2):
            batch = to_devices(mesh, make_batch(rows=16, seed=number))
            state, metrics = step(state, batch)
        found.append((float(metrics["loss"].value()), state))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert int(found[1][1].step) == 2
    for ours, expected in zip(
        jax.tree.leaves(found[1][1].params),
        jax.tree.leaves(found[0][1].params),
        strict=True,
    ):
        # Adam divides by the root of tiny second moments.
        np.testing.assert_allclose(ours, expected, atol=2e-4)
