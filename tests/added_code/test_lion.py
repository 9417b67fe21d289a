"""Lion, an optimizer: its updates, what is frozen, and its moments."""

import jax
import numpy as np
import pytest
from reference_optimizers import by_layer, is_frozen
from test_optimizer import draw_grads, draw_params, run

from bert_jax.config import OptimizerConfig
from bert_jax.train.moments import moments_of, with_moments
from bert_jax.train.optimizer import make_optimizer

CFG = OptimizerConfig(
    name="lion",
    weight_decay=0.1,
    b2=0.99,
    clip_norm=1e9,
    freeze=("embed",),
    freeze_layers=1,
)
STEPS = 3


def rate(step):
    return 0.02 / (1.0 + step)


@pytest.fixture(scope="module")
def trained():
    """Parameters before and after, and the optimizer's state."""
    params = draw_params(np.random.default_rng(0))
    return params, *run(make_optimizer(CFG, rate), params, STEPS)


def test_its_updates_are_those_of_numpy_and_what_is_frozen_stays(trained):
    params, ours, _ = trained
    rng = np.random.default_rng(1)
    expected = by_layer(params)
    moment = {name: np.zeros_like(tensor) for name, tensor in expected.items()}
    for step in range(STEPS):
        for name, grad in by_layer(draw_grads(rng, step)).items():
            if is_frozen(name, CFG.freeze, CFG.freeze_layers):
                continue
            update = np.sign(CFG.b1 * moment[name] + (1.0 - CFG.b1) * grad)
            if name.rpartition("/")[2] in ("kernel", "embedding"):
                update += CFG.weight_decay * expected[name]
            expected[name] -= rate(step) * update
            moment[name] = CFG.b2 * moment[name] + (1.0 - CFG.b2) * grad

    before = by_layer(params)
    for name, tensor in by_layer(ours).items():
        # Float32 against float64, in weights of about 0.3.
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=5e-7)
        moved = not is_frozen(name, CFG.freeze, CFG.freeze_layers)
        assert (tensor != before[name]).any() == moved, name


def test_adamw_begins_with_fresh_moments_after_it(trained):
    params, _, state = trained
    kept = moments_of(state)
    assert int(kept.age) == STEPS
    adamw = make_optimizer(OptimizerConfig(freeze=CFG.freeze), rate).init(params)
    begun = moments_of(with_moments(adamw, kept))
    assert not any(leaf.any() for leaf in jax.tree.leaves((begun.mu, begun.nu)))
