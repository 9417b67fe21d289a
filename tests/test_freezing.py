"""Frozen parameters stay bit by bit, and cost neither gradients nor moments."""

import dataclasses
import re

import jax
import numpy as np
import optax
import pytest
import reference_optimizers as reference

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.model.text_heads import CLASSIFIER
from bert_jax.train.accumulation import mean_gradients
from bert_jax.train.freezing import stop_frozen
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import moments_of
from bert_jax.train.objectives import task_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import to_devices
from bert_jax.train.program import pretrain_program
from bert_jax.train.schedules import make_schedule
from bert_jax.train.tasks import TASKS

CFG = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
SHAPES = {
    "embed": {"token": {"embedding": (7, 4)}, "norm": {"bias": (4,)}},
    "layers": {"mlp": {"up": {"kernel": (3, 4, 5), "bias": (3, 5)}}},
    "pooler": {"kernel": (4, 4), "bias": (4,)},
    "classifier": {"kernel": (4, 2)},
}


def draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def bits(tree):
    """{name: the bits of its numbers}; layers apart. -0.0 and 0.0 differ here."""

    def one(leaf):
        return np.array(leaf, np.float32).view(np.int32)

    return reference.by_layer(jax.tree.map(one, tree))


def without_frozen_entries(tree, parts, num_layers):
    """The same tree as if the model had only what is trained."""
    rest = {name: part for name, part in tree.items() if name not in parts}
    layers = jax.tree.map(lambda x: x[num_layers:], rest.pop("layers", {}))
    return {**rest, **({"layers": layers} if num_layers < 3 and layers else {})}


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
@pytest.mark.parametrize(
    ("parts", "num_layers"),
    [(("embed",), 2), (("embed", "layers", "pooler"), 0), (("classifier",), 3)],
    ids=str,
)
def test_the_rest_is_trained_as_if_it_were_alone(kind, parts, num_layers):
    """What is frozen stays as it is, bit by bit, and has no moments."""
    cfg = dataclasses.replace(CFG, name=kind, freeze=parts, freeze_layers=num_layers)
    schedule = make_schedule(cfg, 20)
    optimizer = make_optimizer(cfg, schedule)
    params = draw(0)
    params["embed"]["token"]["embedding"][2] = -0.0
    params["layers"]["mlp"]["up"]["bias"][0] = -0.0

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, updates

    new, state = params, optimizer.init(params)
    alone = reference.Optimizer(cfg, without_frozen_entries(params, parts, num_layers))
    for number, seed in enumerate((3, 4, 5)):
        new, state, updates = step(new, state, draw(seed))
        rest = without_frozen_entries(draw(seed), parts, num_layers)
        alone.step(rest, reference.plain_rate(cfg, 20, number))
    before, after, changes = bits(params), bits(new), bits(updates)
    for name, expected in before.items():
        frozen = reference.is_frozen(name, parts, num_layers)
        assert np.array_equal(after[name], expected) == frozen, name
        # XLA leaves out the addition of a constant 0.0; other compilers need not.
        assert (changes[name] == np.float32(-0.0).view(np.int32)).all() == frozen, name

    rest = reference.by_layer(without_frozen_entries(new, parts, num_layers))
    moments = moments_of(state)
    found = (rest, *(reference.trained_by_layer(x, 0) for x in moments[:2]))
    for ours, expected in zip(found, (alone.tensors, alone.m, alone.v), strict=True):
        assert set(ours) == set(expected)
        for name, tensor in ours.items():
            # Float32 against float64, as in `test_optimizer`.
            atol = 5e-6 * np.abs(expected[name]).max()
            np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=atol)


def test_frozen_gradients_take_no_part_in_the_clip():
    cfg = dataclasses.replace(CFG, freeze=("embed",), freeze_layers=1)
    optimizer, params = make_optimizer(cfg, make_schedule(cfg, 20)), draw(0)
    update = jax.jit(optimizer.update)
    small, large = draw(1), draw(1)
    large["embed"]["token"]["embedding"] *= 1e6
    large["layers"]["mlp"]["up"]["kernel"][0] = np.inf

    new = [update(g, optimizer.init(params), params) for g in (small, large)]
    jax.tree.map(np.testing.assert_array_equal, *new)

    # What is trained is clipped by its own norm alone.
    trained = [
        x
        for n, x in reference.by_layer(small).items()
        if not reference.is_frozen(n, ("embed",), 1)
    ]
    norm = np.sqrt(sum((x**2).sum() for x in trained))
    assert norm > 1.0
    moment = moments_of(new[0][1]).mu["classifier"]["kernel"]
    expected = 0.1 * small["classifier"]["kernel"] / norm
    np.testing.assert_allclose(moment, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"freeze": ("pooller", "nsp")},
            "freeze names 'pooller', 'nsp', no part of this model; its parts are "
            "classifier, embed, layers, pooler",
        ),
        ({"freeze_layers": 4}, "freeze_layers=4, but the encoder has 3 layers"),
        (
            {"freeze": ("embed", "pooler", "classifier"), "freeze_layers": 3},
            "freeze every parameter; leave one part to train",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_frozen_is_refused_before_the_first_step(fields, message):
    cfg = dataclasses.replace(CFG, **fields)
    optimizer = make_optimizer(cfg, make_schedule(cfg, 20))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(optimizer.init, draw(0))


@pytest.mark.slow(ci=False)
def test_a_pretraining_step_leaves_them_as_they_are(tiny, vocabulary, make_batch):
    """The token table is frozen too, although the MLM head decodes with it."""
    cfg = PretrainConfig(
        model=dataclasses.replace(tiny, num_layers=2),
        data=DataConfig(sequence_length=24),
        mesh=MeshConfig(fsdp=2),
        optimizer=OptimizerConfig(
            name="lamb",
            learning_rate=0.02,
            warmup_steps=0,
            clip_norm=1e9,
            freeze=("embed",),
            freeze_layers=1,
        ),
        batch_size=4,
        num_steps=10,
    )
    mesh = make_mesh(cfg.mesh, jax.devices()[:2])
    program = pretrain_program(cfg, mesh, vocabulary)
    state = program.make_state()
    before = bits(state.params)
    state, metrics = program.step(state, to_devices(mesh, make_batch(rows=4)))
    after = bits(state.params)
    for name, expected in before.items():
        same = np.array_equal(after[name], expected)
        assert same == reference.is_frozen(name, ("embed",), 1), name
    # Unclipped and from zero, the first moments are a tenth of the gradients.
    moments = reference.trained_by_layer(moments_of(state.opt_state).mu, 1)
    norm = np.sqrt(
        sum((10.0 * m.ravel()) @ (10.0 * m.ravel()) for m in moments.values())
    )
    np.testing.assert_allclose(metrics["grad_norm"].value(), norm, rtol=1e-5)


@pytest.mark.parametrize(("parts", "num_loops"), [((), 2), (("embed", "layers"), 1)])
def test_no_gradient_is_computed_for_a_frozen_encoder(
    tiny, make_classify_batch, parts, num_loops
):
    """The layers' loop runs forward, and backward only if something needs it."""
    cfg = OptimizerConfig(freeze=parts)
    compute = ComputeConfig(scan_layers=True)
    objective = stop_frozen(
        cfg, task_objective(TASKS["classification"], tiny, compute, DropoutConfig())
    )
    params = jax.eval_shape(lambda: CLASSIFIER.init_params(tiny, 3, jax.random.key(0)))
    rows = objective.prepare(make_classify_batch(), jax.random.key(1), 0)
    program = jax.make_jaxpr(lambda p: mean_gradients(objective, p, rows))(params)
    assert len(re.findall(r"\bscan\[", str(program))) == num_loops
