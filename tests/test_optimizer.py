"""AdamW and LAMB against NumPy, over stacked layers, clips and phases."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import reference_optimizers as reference

from bert_jax.config import OptimizerConfig
from bert_jax.train.checkpoint import describe
from bert_jax.train.initial import with_moments
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.schedules import join_phases, make_schedule

NUM_LAYERS = 3
SHAPES = {
    "embed": {"token": {"embedding": (16, 8)}, "norm": {"scale": (8,), "bias": (8,)}},
    "layers": {
        "query": {"kernel": (NUM_LAYERS, 8, 2, 4), "bias": (NUM_LAYERS, 2, 4)},
        "norm": {"scale": (NUM_LAYERS, 8), "bias": (NUM_LAYERS, 8)},
    },
    "mlm": {"output_bias": (16,)},
    "nsp": {"kernel": (8, 2)},
}
FIRST = OptimizerConfig(learning_rate=0.02, warmup_steps=6, weight_decay=0.1)
KINDS = {
    "adamw": {},
    "adamw, corrected": {"bias_correction": True},
    "adamw, no decay": {"weight_decay": 0.0},
    "lamb": {"name": "lamb"},
    "lamb, uncorrected": {"name": "lamb", "bias_correction": False},
    "lamb, no decay": {"name": "lamb", "weight_decay": 0.0},
    "lamb of MLPerf": {"name": "lamb", "b1": 0.60466, "b2": 0.85437},
    "no first moment": {"b1": 0.0, "bias_correction": True},
}


def draw(rng, scale):
    def one(shape):
        return rng.normal(0.0, scale, shape).astype(np.float32)

    return jax.tree.map(one, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def draw_params(rng):
    """Random weights; those of layer 1 are zero, and some rows of the table."""
    params = draw(rng, 0.3)
    params["layers"]["query"]["kernel"][1] = 0.0
    params["embed"]["token"]["embedding"][12:] = 0.0
    return params


def draw_grads(rng, step):
    """Gradients above and below a norm of 1; none for layer 2 and the NSP head."""
    grads = draw(rng, 0.2 if step % 3 else 0.01)
    grads["layers"]["query"]["kernel"][2] = 0.0
    grads["nsp"]["kernel"][:] = 0.0
    return grads


def run(optimizer, params, num_steps):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    rng, state = np.random.default_rng(1), optimizer.init(params)
    for number in range(num_steps):
        params, state = step(params, state, draw_grads(rng, number))
    return params, state


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_steps_of_two_phases_match_numpy(kind):
    cfg = dataclasses.replace(FIRST, **KINDS[kind])
    second = dataclasses.replace(cfg, learning_rate=0.01, warmup_steps=4)
    params = draw_params(np.random.default_rng(0))

    schedule = join_phases([(cfg, 60), (second, 40)])
    ours, state = run(make_optimizer(cfg, schedule), params, 100)

    expected, rng = reference.Optimizer(cfg, params), np.random.default_rng(1)
    for number in range(100):
        rate = (
            reference.plain_rate(cfg, 60, number)
            if number < 60
            else reference.plain_rate(second, 40, number - 60)
        )
        expected.step(draw_grads(rng, number), rate)
    assert 0 < expected.num_clipped < 100, "some steps must clip, others not"
    assert (state.step, state.age) == (100, 100)
    for name, tensor in reference.by_layer(ours).items():
        # Worst seen: 8e-7 of a tensor's largest entry, float32 against float64.
        atol = 5e-6 * np.abs(expected.tensors[name]).max()
        np.testing.assert_allclose(
            tensor, expected.tensors[name], rtol=0, atol=atol, err_msg=name
        )
    if cfg.name == "lamb":
        ratios = expected.ratios["layers/1/query/kernel"]
        assert ratios[0] == 1.0 != ratios[-1], "weights of zero have no norm"
        assert ratios[-1] != expected.ratios["layers/0/query/kernel"][-1]
        idle = expected.ratios["nsp/kernel"]
        assert (set(idle) == {1.0}) == (cfg.weight_decay == 0.0)


def test_corrected_adamw_is_optaxs_own():
    cfg = dataclasses.replace(FIRST, bias_correction=True, clip_norm=1e9)
    schedule, params = make_schedule(cfg, 30), draw_params(np.random.default_rng(0))
    ours, _ = run(make_optimizer(cfg, schedule), params, 20)

    def decayed(path, leaf):
        return path[-1].key in ("kernel", "embedding")

    other = optax.adamw(
        schedule,
        *(cfg.b1, cfg.b2, cfg.eps),
        weight_decay=cfg.weight_decay,
        mask=lambda tree: jax.tree_util.tree_map_with_path(decayed, tree),
    )
    theirs, _ = run(other, params, 20)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        # Optax works out 1 - 0.999 in float32, which is 1.3e-5 off: worst seen 3e-6.
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "lamb"},
        {"bias_correction": True, "schedule": "cosine"},
        {"freeze": ("embed",), "freeze_layers": 2},
    ],
    ids=str,
)
def test_every_setting_has_the_same_state_so_that_moments_can_be_kept(fields):
    params, plain = draw_params(np.random.default_rng(0)), OptimizerConfig()
    changed = dataclasses.replace(plain, **fields)
    names = [
        describe(make_optimizer(cfg, make_schedule(cfg, 20_000)).init(params))
        for cfg in (plain, changed)
    ]
    assert names[0] == names[1]
    assert "mu/layers/query/kernel" in names[0], "moments repeat the parameters' paths"


def test_old_moments_of_a_new_run_are_not_corrected_twice():
    cfg = dataclasses.replace(FIRST, name="lamb", learning_rate=1.0, warmup_steps=0)
    # The rate at step 10 is half of that at step 0.
    schedule, params = make_schedule(cfg, 20), draw_params(np.random.default_rng(0))
    optimizer = make_optimizer(cfg, schedule)
    half, state = run(optimizer, params, 10)
    next_state = with_moments(optimizer.init(params), state)
    assert (next_state.step, next_state.age) == (0, 10)

    grads = draw_grads(np.random.default_rng(2), 1)
    going_on, beginning = (
        jax.jit(optimizer.update)(grads, s, half)[0] for s in (state, next_state)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, 2 * b), beginning, going_on
    )
