"""Losses as ratios of sums, against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from bert_jax.model.pretraining import PretrainOutputs
from bert_jax.train.losses import (
    Mean,
    pretrain_loss,
)

NAMES = ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")


@pytest.fixture
def case(make_batch, make_masked):
    """case(seed) -> (outputs, batch, masked) with random logits, padding at -1e9."""

    def make(seed=0, rows=5):
        batch = make_batch(rows=rows, seed=seed)
        masked = make_masked(batch, seed=seed)
        rng = np.random.default_rng(seed)
        mlm = rng.normal(0, 3, (rows, 4, 128)).astype(np.float32)
        # Some predictions are right, or accuracy would be tested at 0 only.
        np.put_along_axis(mlm[:, :2], masked.labels[:, :2, None], 9.0, axis=-1)
        mlm[..., 61:] = -1e9
        nsp = rng.normal(0, 3, (rows, 3, 2)).astype(np.float32)
        outputs = PretrainOutputs(
            hidden=np.zeros((rows, 24, 8), np.float32),
            pooled=np.zeros((rows, 3, 8), np.float32),
            mlm_logits=mlm,
            nsp_logits=nsp,
        )
        return outputs, batch, masked

    return make


def values(metrics: dict[str, Mean]) -> dict[str, float]:
    return {name: float(mean.value()) for name, mean in metrics.items()}


def rows(case: tuple, where) -> tuple:
    return jax.tree.map(lambda x: x[where], case)


@pytest.mark.parametrize("seed", range(5))
def test_losses_match_the_reference(case, seed):
    outputs, batch, masked = case(seed)
    loss, metrics = pretrain_loss(outputs, batch, masked)
    expected = reference.losses(outputs, batch, masked)
    assert set(metrics) == set(NAMES)
    assert 0 < expected["mlm_accuracy"] < 1
    for name in NAMES:
        # float32 sums of some 20 terms: 1e-7 each.
        np.testing.assert_allclose(metrics[name].value(), expected[name], rtol=1e-6)
    total = expected["mlm_loss"] + expected["nsp_loss"]
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    assert metrics["mlm_loss"].weight == masked.weights.sum()
    assert metrics["nsp_accuracy"].weight == batch.nsp_weights.sum()
    alone, named = pretrain_loss(outputs, batch, masked, has_labels=False)
    assert alone == metrics["mlm_loss"].value()
    assert named.keys() == {"mlm_loss", "mlm_accuracy"}


def test_parts_add_up_to_the_whole_where_their_means_do_not(case):
    whole = case(rows=4)
    weights = whole[2].weights
    assert weights[:1].sum() != weights[1:].sum(), "parts must weigh differently"
    parts = [pretrain_loss(*rows(whole, at))[1] for at in (slice(0, 1), slice(1, None))]
    added = jax.tree.map(jnp.add, *parts)
    expected = values(pretrain_loss(*whole)[1])
    for name in NAMES:
        np.testing.assert_allclose(added[name].value(), expected[name], rtol=1e-6)
    mean_of_means = np.mean([part["mlm_loss"].value() for part in parts])
    assert abs(mean_of_means - expected["mlm_loss"]) > 1e-3


def test_slots_and_rows_without_weight_contribute_nothing(case):
    outputs, batch, masked = case()
    batch = batch._replace(nsp_weights=batch.nsp_weights.copy())
    masked = masked._replace(weights=masked.weights.copy())
    batch.nsp_weights[1], masked.weights[1] = 0.0, 0.0
    full = pretrain_loss(outputs, batch, masked)
    keep = np.array([0, 2, 3, 4])
    kept = pretrain_loss(*rows((outputs, batch, masked), keep))
    np.testing.assert_allclose(full[0], kept[0], rtol=1e-6)

    mlm = np.where(masked.weights[..., None] > 0, outputs.mlm_logits, 7.0)
    nsp = np.where(batch.nsp_weights[..., None] > 0, outputs.nsp_logits, -7.0)
    noise = outputs._replace(mlm_logits=mlm, nsp_logits=nsp)
    assert pretrain_loss(noise, batch, masked)[0] == full[0]

    def loss(outputs):
        return pretrain_loss(outputs, batch, masked)[0]

    grads = jax.grad(loss)(outputs)
    assert not grads.mlm_logits[masked.weights == 0].any()
    assert not grads.nsp_logits[batch.nsp_weights == 0].any()
    assert grads.mlm_logits[masked.weights > 0].any(-1).all()


def test_no_weight_at_all_is_zero_and_not_nan(case):
    outputs, batch, masked = case()
    batch = batch._replace(nsp_weights=np.zeros_like(batch.nsp_weights))
    masked = masked._replace(weights=np.zeros_like(masked.weights))

    def loss(outputs):
        return pretrain_loss(outputs, batch, masked)

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(outputs)
    assert value == 0
    assert values(metrics) == dict.fromkeys(NAMES, 0.0)
    assert all((x == 0).all() for x in jax.tree.leaves(grads))


def test_one_missing_loss_leaves_the_other(case):
    # Pretraining without next-sentence labels.
    outputs, batch, masked = case()
    batch = batch._replace(nsp_weights=np.zeros_like(batch.nsp_weights))
    loss, metrics = pretrain_loss(outputs, batch, masked)
    assert loss == metrics["mlm_loss"].value() > 0


def test_gradient_is_the_softmax_minus_the_label(case):
    outputs, batch, masked = case()
    grads = jax.grad(lambda o: pretrain_loss(o, batch, masked)[0])(outputs)
    logits = np.asarray(outputs.mlm_logits, np.float64)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    for index in np.ndindex(masked.labels.shape):
        expected[index][masked.labels[index]] -= 1.0
        expected[index] *= masked.weights[index] / masked.weights.sum()
    np.testing.assert_allclose(grads.mlm_logits, expected, atol=1e-7, rtol=0)
    assert not grads.mlm_logits[..., 61:].any()


def test_enormous_logits_stay_finite(case):
    outputs, batch, masked = case()
    outputs = outputs._replace(
        mlm_logits=outputs.mlm_logits * 1e4, nsp_logits=outputs.nsp_logits * 1e4
    )
    loss, _ = pretrain_loss(outputs, batch, masked)
    expected = reference.losses(outputs, batch, masked)
    total = expected["mlm_loss"] + expected["nsp_loss"]
    np.testing.assert_allclose(loss, total, rtol=1e-6)
