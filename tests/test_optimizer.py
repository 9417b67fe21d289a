"""Every update rule against NumPy, and moments that go from one optimizer to another."""

import dataclasses
import typing

import jax
import numpy as np
import optax
import pytest
import reference_optimizers as reference
from reference_optimizers import is_frozen, trained_by_layer

from bert_jax.config import OptimizerConfig
from bert_jax.train.moments import Moments, moments_of, with_moments
from bert_jax.train.optimizer import RULES, clip_by_global_norm, make_optimizer
from bert_jax.train.schedules import join_phases, make_schedule

NUM_LAYERS = 3
SHAPES = {
    "embed": {"token": {"embedding": (16, 8)}, "norm": {"scale": (8,), "bias": (8,)}},
    "layers": {
        "query": {"kernel": (NUM_LAYERS, 8, 2, 4), "bias": (NUM_LAYERS, 2, 4)},
        "out": {"kernel": (NUM_LAYERS, 2, 3, 8)},  # wide, as a matrix
        "down": {"kernel": (NUM_LAYERS, 11, 8)},  # tall
        "norm": {"scale": (NUM_LAYERS, 8), "bias": (NUM_LAYERS, 8)},
    },
    "mlm": {"output_bias": (16,)},
    "nsp": {"kernel": (8, 2)},
}
LORA = {"a": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 4, 2)}
FIRST = OptimizerConfig(learning_rate=0.02, warmup_steps=6, weight_decay=0.1)
KINDS = {
    "adamw": {},
    "adamw, corrected": {"bias_correction": True},
    "lamb": {"name": "lamb"},
    "lamb, uncorrected": {"name": "lamb", "bias_correction": False},
    "lamb, no decay": {"name": "lamb", "weight_decay": 0.0},
    "lamb of MLPerf": {"name": "lamb", "b1": 0.60466, "b2": 0.85437},
    "stable_adamw": {"name": "stable_adamw"},
    "stable_adamw, uncorrected": {"name": "stable_adamw", "bias_correction": False},
    "muon": {"name": "muon"},
    "muon, other numbers": {"name": "muon", "muon_momentum": 0.8, "muon_rms": 0.7},
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
    assert (state["rate"].count, moments_of(state).age) == (100, 100)
    for name, tensor in reference.by_layer(ours).items():
        # Worst seen: 8e-7 of a tensor's largest entry, float32 against float64.
        atol = 5e-6 * np.abs(expected.tensors[name]).max()
        np.testing.assert_allclose(
            tensor, expected.tensors[name], rtol=0, atol=atol, err_msg=name
        )
    if cfg.name == "stable_adamw":
        assert 0 < expected.num_slowed < 100 * len(expected.tensors)
    if cfg.name == "lamb":
        ratios = expected.ratios["layers/1/query/kernel"]
        assert ratios[0] == 1.0 != ratios[-1], "weights of zero have no norm"
        assert ratios[-1] != expected.ratios["layers/0/query/kernel"][-1]
        idle = expected.ratios["nsp/kernel"]
        assert (set(idle) == {1.0}) == (cfg.weight_decay == 0.0)


@pytest.mark.parametrize("largest", [1e3, 1.0, 1e-3])
def test_gradients_are_clipped_as_by_optax(largest):
    grads = draw(np.random.default_rng(0), 0.3)
    clipped, expected = (
        clip(largest).update(grads, clip(largest).init(grads))[0]
        for clip in (clip_by_global_norm, optax.clip_by_global_norm)
    )
    for mine, its, grad in zip(
        *map(jax.tree.leaves, (clipped, expected, grads)), strict=True
    ):
        np.testing.assert_allclose(mine, its, rtol=3e-7)
        assert largest < 1e3 or np.array_equal(mine, grad)
    zeros = jax.tree.map(np.zeros_like, grads)
    for x in jax.tree.leaves(clip_by_global_norm(largest).update(zeros, None)[0]):
        assert not np.any(x)


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


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize("num_frozen", [0, 1])
def test_each_layer_has_a_rate_of_its_own(name, num_frozen):
    """Layer i of L has the rate times 0.5 ** (L - i), weight decay included."""
    cfg = dataclasses.replace(FIRST, name=name, freeze_layers=num_frozen)
    schedule = make_schedule(cfg, 20)
    params = draw(np.random.default_rng(0), 0.3)
    if not num_frozen:  # LoRA freezes whole parts, never some layers
        params["lora"] = LORA
    grads = jax.tree.map(np.cos, params)

    @jax.jit
    def second_updates():
        found = []
        for decay in (1.0, 0.5):
            decayed = dataclasses.replace(cfg, layer_decay=decay)
            optimizer = make_optimizer(decayed, schedule)
            _, state = optimizer.update(grads, optimizer.init(params), params)
            found.append(optimizer.update(grads, state, params)[0])
        return found

    plain, found = second_updates()
    for part, factors in (
        ("embed", 0.5**4),
        ("layers", [0.5**3, 0.5**2, 0.5]),
        ("lora", [0.5**3, 0.5**2, 0.5]),
        ("mlm", 1.0),
        ("nsp", 1.0),
    ):
        if part not in params:
            continue

        def scaled(update, factors=factors):
            return (np.asarray(update).T * np.array(factors, np.float32)).T

        # Powers of a half lose no bit.
        expected = jax.tree.map(scaled, plain[part])
        jax.tree.map(np.testing.assert_array_equal, found[part], expected)
    assert np.abs(found["layers"]["query"]["kernel"][1]).max() > 0


def test_one_rate_for_all_layers_adds_nothing_to_the_state():
    state = make_optimizer(FIRST, make_schedule(FIRST, 20)).init(LORA)
    assert set(state) == {"clip", "rule", "rate"}


def test_every_optimizer_of_the_config_has_a_rule():
    names = typing.get_args(typing.get_type_hints(OptimizerConfig)["name"])
    assert sorted(names) == sorted(RULES)


def random_moments(params):
    rng = np.random.default_rng(5)
    mu, nu = (
        jax.tree.map(lambda x: rng.random(x.shape, np.float32), params) for _ in "mv"
    )
    return Moments(mu=mu, nu=nu, age=np.int32(9))


def state_of(params, **fields):
    cfg = dataclasses.replace(FIRST, **fields)
    return make_optimizer(cfg, make_schedule(cfg, 20)).init(params)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ({}, {"name": "lamb"}, lambda name: True),
        ({"name": "lamb"}, {"freeze": ("embed",), "freeze_layers": 2}, None),
        (
            {"freeze": ("nsp",), "freeze_layers": 2},
            {"freeze_layers": 1},
            lambda name: not name.startswith(("nsp", "layers/1")),
        ),
    ],
    ids=["rule", "rule and freezing", "freezing"],
)
def test_moments_go_from_any_optimizer_to_any_other(before, after, kept):
    """Each layer keeps its own, however many layers the two runs freeze."""
    params = draw_params(np.random.default_rng(0))
    given = random_moments(params)
    carried = moments_of(with_moments(state_of(params, **before), given))
    found = moments_of(with_moments(state_of(params, **after), carried))
    assert found.age == 9
    num_frozen = after.get("freeze_layers", 0)
    for tree, expected in ((found.mu, given.mu), (found.nu, given.nu)):
        expected = reference.by_layer(expected)
        tensors = trained_by_layer(tree, num_frozen)
        assert set(tensors) == {
            name
            for name in expected
            if not is_frozen(name, after.get("freeze", ()), num_frozen)
        }
        for name, tensor in tensors.items():
            same = kept is None or kept(name)
            np.testing.assert_array_equal(tensor, expected[name] * same, err_msg=name)


def test_moments_that_are_missing_or_there_twice_are_refused():
    params = draw_params(np.random.default_rng(0))
    plain = optax.chain(optax.sgd(0.1, momentum=0.9)).init(params)
    twice = optax.chain(optax.scale_by_adam(), optax.scale_by_adam()).init(params)
    for state, said in (
        (plain, "holds no moments"),
        (twice, "two moments of embed/norm/bias"),
    ):
        with pytest.raises(ValueError, match=said):
            moments_of(state)
        with pytest.raises(ValueError, match=said):
            with_moments(state, random_moments(params))


def test_moments_of_any_rule_of_optax_are_found():
    """Lion has first moments only; AdamW takes them up where it has both."""
    params = draw_params(np.random.default_rng(0))
    lion = optax.scale_by_lion().init(params)
    carried = moments_of(with_moments(lion, random_moments(params)))
    assert jax.tree.leaves(carried.nu) == []
    jax.tree.map(np.testing.assert_array_equal, carried.mu, random_moments(params).mu)
    adam = moments_of(with_moments(state_of(params), carried))
    assert (carried.age, adam.age) == (9, 9)
    assert not any(np.any(x) for x in jax.tree.leaves((adam.mu, adam.nu)))


def is_matrix(name):
    return name.startswith("layers/") and name.endswith("/kernel")


@pytest.mark.parametrize("num_frozen", [0, 1])
@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_muon_and_adamw_take_over_what_they_have_in_common(before, after, num_frozen):
    """Muon has no second moments of matrices, and Adam takes both moments or none."""
    params = draw_params(np.random.default_rng(0))
    given = random_moments(params)
    old = moments_of(with_moments(state_of(params, name=before), given))
    fresh = state_of(params, name=after, freeze_layers=num_frozen)
    carried = with_moments(fresh, old)
    leaves = jax.tree.leaves(carried)
    assert len({id(x) for x in leaves}) == len(leaves), "a state is donated whole"
    found = moments_of(carried)
    assert found.age == 9
    for tree, expected in ((found.mu, given.mu), (found.nu, given.nu)):
        expected = reference.by_layer(expected)
        tensors = trained_by_layer(tree, num_frozen)
        trained = {name for name in expected if not is_frozen(name, (), num_frozen)}
        if after == "muon" and tree is found.nu:
            trained = {name for name in trained if not is_matrix(name)}
        assert set(tensors) == trained
        for name, tensor in tensors.items():
            kept = after == "muon" or not is_matrix(name)
            np.testing.assert_array_equal(tensor, expected[name] * kept, err_msg=name)


def test_muon_leaves_the_matrices_of_lora_to_adam():
    params = {**draw_params(np.random.default_rng(0)), "lora": {"up": LORA}}
    state = state_of(params, name="muon", freeze=("embed", "layers"))
    moments = moments_of(state)
    for tree in (moments.mu, moments.nu):
        paths = jax.tree_util.tree_leaves_with_path(tree)
        assert {path[0].key for path, _ in paths} == {"lora", "mlm", "nsp"}


@pytest.mark.parametrize(
    "fields", [{"muon_rms": 0.4}, {"name": "lamb", "muon_momentum": 0.9}], ids=str
)
def test_a_setting_of_muon_that_would_be_ignored_is_an_error(fields):
    with pytest.raises(
        ValueError, match=r"muon_\w+=0.\d would be ignored: it needs name='muon'"
    ):
        OptimizerConfig(**fields)


def test_old_moments_of_a_new_run_are_not_corrected_twice():
    cfg = dataclasses.replace(FIRST, name="lamb", learning_rate=1.0, warmup_steps=0)
    # The rate at step 10 is half of that at step 0.
    schedule, params = make_schedule(cfg, 20), draw_params(np.random.default_rng(0))
    optimizer = make_optimizer(cfg, schedule)
    half, state = run(optimizer, params, 10)
    next_state = with_moments(optimizer.init(params), moments_of(state))
    assert moments_of(next_state).age == 10
    assert (state["rate"].count, next_state["rate"].count) == (10, 0)

    grads = draw_grads(np.random.default_rng(2), 1)
    going_on, beginning = (
        jax.jit(optimizer.update)(grads, s, half)[0] for s in (state, next_state)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, 2 * b), beginning, going_on
    )
