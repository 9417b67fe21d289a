"""Recomputation changes what is kept for the backward pass, and no number."""

import dataclasses

import jax
import numpy as np
import pytest
import reference

from bert_jax.config import ComputeConfig
from bert_jax.model import pretraining
from bert_jax.train.losses import pretrain_loss

POLICIES = ("none", "attention", "dots", "full")


@pytest.fixture(scope="module")
def backward(tiny, random_params, make_batch, make_masked):
    """backward(policy, scan) -> (the loss as a function, parameters).

    Dropout is on: what is computed again must draw the same numbers again.
    """
    cfg = dataclasses.replace(tiny, num_layers=2)
    batch = make_batch()
    masked = make_masked(batch)
    params = random_params(cfg)

    def make(remat, scan_layers=True):
        compute = ComputeConfig(remat=remat, scan_layers=scan_layers)

        def loss(params):
            outputs = pretraining.apply(
                cfg, params, batch, masked, compute=compute, key=jax.random.key(7)
            )
            return pretrain_loss(outputs, batch, masked)[0]

        return loss, params

    make.square = (
        batch.input_ids.shape[0],
        tiny.num_heads,
        *[batch.input_ids.shape[1]] * 2,
    )
    return make


@pytest.mark.parametrize(("num_layers", "remat"), [(1, "none"), (3, "attention")])
def test_a_loop_over_layers_of_two_kinds_is_the_layers_in_a_row(
    tiny, make_batch, make_masked, num_layers, remat
):
    """One layer in three is global. A loop holds both kinds, even if only one is there."""
    cfg = dataclasses.replace(
        tiny,
        num_layers=num_layers,
        positions="rotary",
        norm_position="pre",
        local_window=4,
        global_every=3,
        rope_theta=160_000.0,
    )
    batch = make_batch()
    masked, params = make_masked(batch), pretraining.init_params(cfg, jax.random.key(1))

    def backward(compute):
        def loss(params):
            outputs = pretraining.apply(
                cfg, params, batch, masked, compute=compute, key=jax.random.key(7)
            )
            return pretrain_loss(outputs, batch, masked)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    value, grads = backward(ComputeConfig(scan_layers=True, remat=remat))
    wanted, expected = backward(ComputeConfig(scan_layers=False))
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    found, expected = map(reference.flatten, (grads, expected))
    for path, want in expected.items():
        atol = 2e-6 * np.abs(want).max() + 1e-8
        np.testing.assert_allclose(found[path], want, atol=atol, rtol=0, err_msg=path)


@pytest.fixture(scope="module")
def usual(backward):
    """Loss and gradients with nothing computed again, layers in a loop."""
    loss, params = backward("none")
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("remat", "scan_layers"), [("attention", False), ("dots", True), ("full", True)]
)
def test_loss_and_gradients_stay(backward, usual, remat, scan_layers):
    loss, params = backward(remat, scan_layers)
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, usual[0], rtol=1e-6)
    found, expected = map(reference.flatten, (grads, usual[1]))
    assert found.keys() == expected.keys()
    for path, want in expected.items():
        if path.endswith("attention/key/bias"):
            # Softmax does not see it: its gradient is 0, and rounding is all there is.
            assert max(np.abs(want).max(), np.abs(found[path]).max()) < 1e-6
            continue
        # Other fusions round otherwise: worst seen 2e-7 of the largest entry.
        atol = 2e-6 * np.abs(want).max()
        np.testing.assert_allclose(found[path], want, atol=atol, rtol=0, err_msg=path)


def test_policies_keep_less_and_less(backward):
    def shapes_kept(remat):
        loss, params = backward(remat)
        kept = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
        return [x.shape for x in jax.tree.leaves(kept)]

    def square(shapes):
        return sum(shape[-4:] == backward.square for shape in shapes)

    kept = {remat: shapes_kept(remat) for remat in POLICIES}
    assert square(kept["none"]) > 0
    assert square(kept["attention"]) == square(kept["full"]) == 0
    sizes = {n: sum(int(np.prod(s)) for s in shapes) for n, shapes in kept.items()}
    assert sizes["none"] > sizes["attention"] > sizes["dots"] > sizes["full"]
