"""LoRA: what it changes, what it leaves as it is, and what others see of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from bert_jax.config import (
    DropoutConfig,
    FinetuneConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
)
from bert_jax.model.text_heads import CLASSIFIER
from bert_jax.train.lora import PART, init_lora, merged
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import moments_of
from bert_jax.train.placement import to_devices
from bert_jax.train.step import abstract_state, compile_step, train_step
from bert_jax.train.tasks import TASKS
from bert_jax.train.tuning import make_tuning

ALL = ("query", "key", "value", "out", "up", "down")
TASK = TASKS["classification"]


def settings(**fields):
    return FinetuneConfig(
        optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=0, clip_norm=1e9),
        dropout=DropoutConfig(hidden=0.0, attention=0.0),
        **fields,
    )


@pytest.fixture(scope="module")
def adapted(tiny):
    """Parameters of a classifier with random changes of all weights; none is zero."""
    cfg = LoraConfig(rank=5, alpha=3.0, targets=ALL)
    params = reference.random_params(reference.classifier_shapes(tiny, 3), 0)
    rng = np.random.default_rng(1)
    lora = jax.tree.map(
        lambda x: rng.normal(0.0, 0.1, x.shape).astype(np.float32),
        init_lora(cfg, params["layers"], jax.random.key(0)),
    )
    return cfg, {**params, PART: lora}


def block_of(target):
    return "mlp" if target in ("up", "down") else "attention"


@pytest.mark.parametrize("target", ALL)
def test_the_changed_weights_do_what_both_matrices_do_beside_them(adapted, target):
    """x W + (alpha / rank) (x A) B, as Hu et al. write it, one layer at a time."""
    cfg, params = adapted
    kernel_L = merged(cfg, params)["layers"][block_of(target)][target]["kernel"]
    before_L = params["layers"][block_of(target)][target]["kernel"]
    pair = params[PART][block_of(target)][target]
    num_inputs = pair["a"].ndim - 2
    rng = np.random.default_rng(2)
    for layer, kernel in enumerate(np.asarray(kernel_L)):
        x = rng.normal(size=(4, *kernel.shape[:num_inputs]))
        own = (np.float64(tree[layer]) for tree in (before_L, pair["a"], pair["b"]))
        weights, a, b = own
        expected = np.tensordot(x, weights, num_inputs)
        beside = np.tensordot(np.tensordot(x, a, num_inputs), b, 1)
        expected += 3.0 / 5.0 * beside
        found = np.tensordot(x, np.float64(kernel), num_inputs)
        # Rounding to float32 of a sum of at most 48 products of size 1.
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_the_model_computes_with_the_changes(tiny, adapted, make_classify_batch):
    """Against NumPy in float64, whose changes are added one rank after the other."""
    cfg, params = adapted
    changed = reference.to_float64({n: p for n, p in params.items() if n != PART})
    for target in ALL:
        pair = params[PART][block_of(target)][target]
        for n in range(5):
            a, b = np.float64(pair["a"])[..., n], np.float64(pair["b"])[:, n]
            letters = "xyz"[: a.ndim - 1], "uvw"[: b.ndim - 1]
            outer = np.einsum(f"l{letters[0]},l{letters[1]}->l{''.join(letters)}", a, b)
            changed["layers"][block_of(target)][target]["kernel"] += 0.6 * outer
    batch = make_classify_batch()
    found = CLASSIFIER.apply(tiny, merged(cfg, params), batch)
    expected = reference.text_logits(tiny, "classifier", changed, batch)
    plain = reference.text_logits(tiny, "classifier", params, batch)
    assert np.abs(expected - plain).max() > 0.01
    # As for the logits of other heads in test_model.
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=0)


def test_fresh_matrices_change_nothing(tiny):
    cfg = LoraConfig(rank=4, targets=ALL)
    params = reference.random_params(reference.classifier_shapes(tiny, 3), 0)
    lora = jax.jit(lambda key: init_lora(cfg, params["layers"], key))(jax.random.key(3))
    found = merged(cfg, {**params, PART: lora})
    jax.tree.map(np.testing.assert_array_equal, found, params)
    # As in the code of Hu et al.: up to 1 / sqrt(inputs); those of `out` are all heads.
    for target, size in (("query", 32), ("out", 32), ("down", 48)):
        a = np.asarray(lora[block_of(target)][target]["a"])
        assert 0.9 / np.sqrt(size) < np.abs(a).max() <= 1 / np.sqrt(size)
        assert not np.array_equal(a[0], a[1])
    # Without LoRA nothing is added up.
    assert merged(LoraConfig(), params) is params


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).view(np.int32), tree)


def run(cfg, model, make_classify_batch, mesh=None, num_steps=3):
    """The states before and after some steps, the losses, and the parts."""
    tuning = make_tuning(cfg, model, TASK, 3, 20)
    state = jax.jit(lambda: tuning.fresh_state(0))()
    # Twelve rows, for four devices.
    batch = jax.tree.map(
        lambda *x: np.concatenate(x), *(make_classify_batch(n) for n in range(4))
    )
    if mesh is None:
        step = jax.jit(
            lambda s, b: train_step(tuning.objective, tuning.optimizer, s, b)
        )
    else:
        abstract = abstract_state(lambda: tuning.fresh_state(0), mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = jax.device_put(state, places)
        step = compile_step(tuning.objective, tuning.optimizer, mesh, abstract)
        batch = to_devices(mesh, batch)
    before, losses = jax.device_get(state), []
    for _ in range(num_steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()))
    return before, state, losses, tuning


@pytest.mark.parametrize(
    "fields",
    [
        {"lora": LoraConfig(rank=2)},
        pytest.param({"head_only": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_encoder_stays_bit_by_bit_and_has_no_moments(
    tiny, make_classify_batch, fields
):
    model = dataclasses.replace(tiny, num_layers=1)
    before, after, losses, tuning = run(settings(**fields), model, make_classify_batch)
    trained = {"classifier"} | ({PART} if "lora" in fields else set())
    for part in ("embed", "layers", "pooler"):
        old, new = bits(before.params[part]), bits(after.params[part])
        jax.tree.map(np.testing.assert_array_equal, old, new)
    for part in trained:
        for name, old in reference.flatten(before.params[part]).items():
            new = reference.flatten(after.params[part])[name]
            assert (np.asarray(new) != old).mean() > 0.9, name
    moments = moments_of(after.opt_state)
    assert {
        path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(moments.mu)
    } == (trained)
    assert losses[-1] < losses[0]
    count = {"lora": 2 * 2 * 2 * 32, "head_only": 0}[next(iter(fields))] + 3 * 32 + 3
    total = sum(x.size for x in jax.tree.leaves(before.params))
    said = tuning.describe()
    assert said.startswith(f"{count:,} of {total:,} parameters are trained")
    assert "note" not in said


def test_a_rate_that_is_too_low_for_so_few_parameters_is_said(tiny):
    for fields, said in (({}, False), ({"lora": LoraConfig(rank=2)}, True)):
        cfg = FinetuneConfig(**fields)
        text = make_tuning(cfg, tiny, TASK, 3, 20).describe()
        assert (
            "a learning rate of 5e-05 suits training of all weights" in text
        ) == said


@pytest.mark.slow(ci=False)
def test_a_mesh_trains_as_one_device_does(tiny, make_classify_batch):
    cfg = settings(lora=LoraConfig(rank=4, targets=ALL))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    _, state, losses, _ = run(cfg, tiny, make_classify_batch, mesh)
    _, _, expected, _ = run(cfg, tiny, make_classify_batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    b = state.params[PART]["attention"]["query"]["b"]
    moment = moments_of(state.opt_state).mu[PART]["attention"]["query"]["b"]
    assert b.sharding.shard_shape(b.shape) == (3, 4, 2, 8)  # [L, rank, N, H]
    assert moment.sharding.is_equivalent_to(b.sharding, b.ndim)


def test_a_model_without_a_gate_cannot_change_one(tiny):
    cfg = LoraConfig(rank=3, targets=("query", "gate"))
    layers = reference.random_params(reference.classifier_shapes(tiny, 3), 0)["layers"]
    with pytest.raises(ValueError, match="names 'gate', but the feed-forward blocks"):
        init_lora(cfg, layers, jax.random.key(0))


def test_all_targets_have_a_place(tiny):
    """The shapes fit the rows of the table, on every axis of the mesh."""
    cfg = settings(lora=LoraConfig(rank=3, targets=(*ALL, "gate")))
    gated = dataclasses.replace(tiny, mlp="geglu")
    tuning = make_tuning(cfg, gated, TASK, 3, 20)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    abstract = abstract_state(lambda: tuning.fresh_state(0), mesh)
    found = {
        name: tuple(x.sharding.shard_shape(x.shape))
        for name, x in reference.flatten(abstract.params[PART]).items()
    }
    assert found == {
        "attention/query/a": (3, 16, 3),
        "attention/query/b": (3, 3, 2, 8),
        "attention/key/a": (3, 16, 3),
        "attention/key/b": (3, 3, 2, 8),
        "attention/value/a": (3, 16, 3),
        "attention/value/b": (3, 3, 2, 8),
        "attention/out/a": (3, 2, 8, 3),
        "attention/out/b": (3, 3, 16),
        "mlp/up/a": (3, 16, 3),
        "mlp/up/b": (3, 3, 24),
        "mlp/gate/a": (3, 16, 3),
        "mlp/gate/b": (3, 3, 24),
        "mlp/down/a": (3, 24, 3),
        "mlp/down/b": (3, 3, 16),
    }
    assert jnp.float32 == abstract.params[PART]["mlp"]["up"]["a"].dtype
