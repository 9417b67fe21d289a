"""Every update rule that looks at whole tensors gives the same updates on any mesh."""

import jax
import numpy as np
import optax
import pytest
import reference_optimizers as reference

from bert_jax.config import MeshConfig, OptimizerConfig
from bert_jax.train import sharding
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import moments_of
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.schedules import make_schedule

# Some of BERT's parameters, one large enough for weight-update sharding to split.
SHAPES = {
    "embed": {"token": {"embedding": (64, 16)}},
    "layers": {
        "attention": {
            "query": {"kernel": (2, 64, 8, 64), "bias": (2, 8, 64)},
            "out": {"kernel": (2, 8, 8, 64)},
        },
        "mlp": {"down": {"kernel": (2, 96, 64)}, "norm": {"scale": (2, 16)}},
    },
    "nsp": {"kernel": (16, 2)},
}
RULES = ("lamb", "stable_adamw", "muon")


def _draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(0.0, 0.3, shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


@pytest.fixture(scope="module", params=RULES)
def one_device(request):
    """(settings, parameters, gradients, parameters after them on one device)."""
    cfg = OptimizerConfig(name=request.param, learning_rate=0.02, warmup_steps=1)
    params, grads = _draw(0), [_draw(seed) for seed in (1, 2, 3)]
    return cfg, params, grads, _train(cfg, MeshConfig(), 1, params, grads)


def _train(cfg, layout, num_devices, params, grads):
    mesh = make_mesh(layout, jax.devices()[:num_devices])
    optimizer = make_optimizer(cfg, make_schedule(cfg, 10))
    state = optimizer.init(params)
    places = sharding.shardings(mesh, params)
    split = sharding.update_shardings if layout.shard_update else sharding.shardings
    state_places = split(mesh, state)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    if layout.shard_update:
        kernel = moments_of(state_places).mu["layers"]["attention"]["query"]["kernel"]
        assert not kernel.is_fully_replicated
    step = jax.jit(
        step,
        in_shardings=(places, state_places, places),
        out_shardings=(places, state_places),
    )
    for gradient in grads:
        params, state = step(params, state, gradient)
    return jax.device_get(params)


@pytest.mark.parametrize(
    "layout",
    [
        MeshConfig(data=2, fsdp=2, tensor=2),
        MeshConfig(data=8, shard_update=True),
    ],
    ids=str,
)
def test_sharded_parameters_are_updated_as_on_one_device(one_device, layout):
    cfg, params, grads, expected = one_device
    ours = reference.by_layer(_train(cfg, layout, 8, params, grads))
    before = reference.by_layer(params)
    for name, tensor in reference.by_layer(expected).items():
        largest = np.abs(tensor).max()
        np.testing.assert_allclose(
            ours[name], tensor, rtol=0, atol=1e-6 * largest, err_msg=name
        )
        assert np.abs(ours[name] - before[name]).max() > 1e-3 * largest
