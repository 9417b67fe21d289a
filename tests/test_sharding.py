"""The two tables: every parameter has a place, and every layout trains alike."""

import dataclasses
import functools
import os
import pathlib

import jax
import numpy as np
import pytest
import reference

from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    MaskingConfig,
    MeshConfig,
    OptimizerConfig,
)
from bert_jax.family import model_config
from bert_jax.model import pretraining
from bert_jax.model.text_heads import CLASSIFIER
from bert_jax.train import sharding
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import moments_of
from bert_jax.train.objectives import pretrain_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import to_devices
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, compile_step, init_state

GOLDEN = pathlib.Path(__file__).parent / "golden" / "shardings.txt"
LAYOUTS = (
    MeshConfig(data=8),
    MeshConfig(data=1, fsdp=8),
    MeshConfig(data=4, tensor=2),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=-1, fsdp=2),
    MeshConfig(sequence=8),
    MeshConfig(fsdp=2, sequence=2, tensor=2),
    MeshConfig(slices=2, data=2, tensor=2),
    MeshConfig(slices=2, data=1, fsdp=2, sequence=2),
    MeshConfig(data=8, shard_update=True),
    MeshConfig(slices=2, data=2, fsdp=2, shard_update=True),
)
# Every axis is split in one of them; the others are trained where there is time.
QUICK = (LAYOUTS[6], LAYOUTS[10])
NUM_STEPS = 20
IN_A_LOOP = ComputeConfig(scan_layers=True)  # as layers are on accelerators
# What XLA says when it can only gather an array whole to lay it out anew.
REMATERIALISED = "nvoluntary full rematerialization"


@pytest.fixture(scope="module")
def run(tiny, vocabulary, make_batch):
    """run(mesh config, devices) -> (losses of some steps, last state, step)."""
    objective = pretrain_objective(
        tiny, IN_A_LOOP, DropoutConfig(), MaskingConfig(), vocabulary
    )

    @functools.cache
    def make(layout, num_devices=8, steps=NUM_STEPS, rule="adamw"):
        settings = OptimizerConfig(name=rule, learning_rate=1e-2, warmup_steps=2)
        optimizer = make_optimizer(settings, make_schedule(settings, 20))
        mesh = make_mesh(layout, jax.devices()[:num_devices])

        def make_state():
            init = functools.partial(pretraining.init_params, tiny)
            return init_state(init, optimizer, 0)

        shard_update = layout.shard_update
        abstract = abstract_state(make_state, mesh, shard_update=shard_update)
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = jax.jit(make_state, out_shardings=places)()
        step = compile_step(
            objective, optimizer, mesh, abstract, shard_update=shard_update
        )
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


def in_short(layout: MeshConfig) -> str:
    """Such as data=2 fsdp=4: what differs from the defaults."""
    default = MeshConfig(data=1)
    return " ".join(
        f"{name}={value}"
        for name, value in dataclasses.asdict(layout).items()
        if value != getattr(default, name)
    )


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(
            x, marks=[] if x in QUICK else [pytest.mark.slow(ci=False)], id=in_short(x)
        )
        for x in LAYOUTS
    ],
)
def test_every_layout_trains_to_the_losses_of_one_device(
    run, one_device, layout, capfd
):
    losses, state, step = run(layout)
    assert REMATERIALISED not in capfd.readouterr().err
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


@pytest.mark.slow(ci=False)  # compiles whole steps
@pytest.mark.parametrize("layout", QUICK, ids=in_short)
def test_muon_trains_to_the_losses_of_one_device(run, layout):
    """Its matrices are multiplied whole, wherever their rows and columns live."""
    losses, state, _ = run(layout, steps=6, rule="muon")
    expected, alone, _ = run(MeshConfig(), num_devices=1, steps=6, rule="muon")
    # The rate of the first update is 0.
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    plain, _, _ = run(MeshConfig(), num_devices=1)
    assert abs(losses[-1] - plain[5]) > 1e-3
    kernel = state.params["layers"]["mlp"]["up"]["kernel"]
    moment = moments_of(state.opt_state).mu["layers"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == moment.sharding.shard_shape(
        moment.shape
    )
    for ours, other in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True
    ):
        np.testing.assert_allclose(ours, other, atol=2e-4)


def test_heads_split_over_tensor_and_moments_follow(run):
    _, state, _ = run(QUICK[0])
    moments = moments_of(state.opt_state)
    for tree in (state.params, moments.mu, moments.nu):
        kernel = tree["layers"]["attention"]["query"]["kernel"]
        # [L, D, N, H]: width over fsdp, heads over tensor.
        assert kernel.sharding.shard_shape(kernel.shape) == (3, 16, 2, 8)
        table = tree["embed"]["token"]["embedding"]
        assert table.sharding.shard_shape(table.shape) == (32, 32)


@pytest.mark.slow(ci=False)
def test_a_layout_that_xla_cannot_follow_would_be_seen(run, monkeypatch, capfd):
    # The width of the token table over fsdp is such a one.
    rows = tuple(
        (path, (None, "embed") if path == r"embed/token/embedding" else axes)
        for path, axes in sharding.PARAM_AXES
    )
    monkeypatch.setattr(sharding, "PARAM_AXES", rows)
    run(MeshConfig(data=2, fsdp=4), steps=1)
    assert REMATERIALISED in capfd.readouterr().err


def test_updates_are_split_over_the_copies_too():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    base = model_config("base")
    tree = jax.eval_shape(lambda: pretraining.init_params(base, jax.random.key(0)))
    whole, split = (
        reference.flatten(f(mesh, tree))
        for f in (sharding.shardings, sharding.update_shardings)
    )
    shapes = reference.flatten(tree)
    for path, shape in shapes.items():
        before, after = (x[path].shard_shape(shape.shape) for x in (whole, split))
        parts = 2 if shape.size >= 1 << 16 else 1
        assert np.prod(before) == parts * np.prod(after), path


def golden_table(layout: MeshConfig) -> str:
    """Every parameter of BERT-Base and its optimizer state, and how they are split."""
    mesh = make_mesh(layout)
    base = model_config("base")
    tree = jax.eval_shape(lambda: pretraining.init_params(base, jax.random.key(0)))
    places = {
        "parameter": sharding.shardings(mesh, tree),
        "moments": sharding.update_shardings(mesh, tree)
        if layout.shard_update
        else sharding.shardings(mesh, tree),
    }
    shapes = reference.flatten(tree)
    lines = [f"== {in_short(layout) or 'one device a copy'}"]
    for path, shape in sorted(shapes.items()):
        specs = [
            ", ".join(str(axes) for axes in reference.flatten(place)[path].spec)
            for place in places.values()
        ]
        line = f"{path} {list(shape.shape)}: ({specs[0]})"
        lines.append(line if specs[0] == specs[1] else f"{line}, moments ({specs[1]})")
    return "\n".join(lines)


def test_the_sharding_of_every_parameter_is_as_recorded():
    found = "\n\n".join(map(golden_table, LAYOUTS)) + "\n"
    if os.environ.get("BERT_JAX_UPDATE_GOLDEN"):
        GOLDEN.write_text(found)
    # A change that is meant is recorded with BERT_JAX_UPDATE_GOLDEN=1 and reviewed.
    assert found == GOLDEN.read_text()


def test_every_parameter_of_both_models_has_a_row(tiny):
    trees = (
        jax.eval_shape(lambda: pretraining.init_params(tiny, jax.random.key(0))),
        jax.eval_shape(lambda: CLASSIFIER.init_params(tiny, 3, jax.random.key(0))),
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
    # An axis that takes what is left is not among those that ask for too much.
    asked = (
        r"asks for fsdp=16 \* sequence=1 \* tensor=1 = 16 devices or a multiple, but 8"
    )
    with pytest.raises(ValueError, match=f"{asked} .* product divides that number"):
        make_mesh(MeshConfig(fsdp=16))


def test_rows_that_the_mesh_cannot_share_are_an_error():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    with pytest.raises(ValueError, match=r"batch_size=6 .* multiple of 4"):
        sharding.check_batch_size(mesh, 6)
