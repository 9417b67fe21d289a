"""What a run takes over from another one that had other settings."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_optimizers as reference

from bert_jax.config import DataConfig, MeshConfig, OptimizerConfig, PretrainConfig
from bert_jax.config_json import to_values
from bert_jax.data.json_file import write_json
from bert_jax.model import pretraining
from bert_jax.train.initial import encoder_hashes, start_encoder, start_pretraining
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import Moments, moments_of, with_moments
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, init_state

TOKENIZER = types.SimpleNamespace(sha256="a" * 64)


def settings(model, **fields):
    return PretrainConfig(
        model=model, data=DataConfig(sequence_length=24), num_steps=20_000, **fields
    )


def build(cfg):
    """The mesh, the abstract state and the state of step 0."""
    mesh = make_mesh(cfg.mesh, jax.devices())
    optimizer = make_optimizer(
        cfg.optimizer, make_schedule(cfg.optimizer, cfg.num_steps)
    )

    shapes = jax.eval_shape(
        functools.partial(pretraining.init_params, cfg.model), jax.random.key(0)
    )

    def make_state():
        return init_state(lambda _: jax.tree.map(jnp.zeros_like, shapes), optimizer, 0)

    abstract = abstract_state(make_state, mesh, shard_update=cfg.mesh.shard_update)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return mesh, abstract, jax.jit(make_state, out_shardings=places)()


@pytest.fixture(scope="module")
def before(tiny, tmp_path_factory):
    """A run with LAMB that froze embeddings and one layer, and the moments it saved."""
    run = tmp_path_factory.mktemp("before")
    cfg = settings(
        tiny,
        optimizer=OptimizerConfig(name="lamb", freeze=("embed",), freeze_layers=1),
        mesh=MeshConfig(data=8),
    )
    info = RunInfo(
        kind="pretrain", model=tiny, tokenizer_sha256=TOKENIZER.sha256, data={}
    )
    write_json(run / "config.json", to_values(cfg))
    write_json(run / "run.json", to_values(info))
    _, _, state = build(cfg)
    rng = np.random.default_rng(0)
    mu, nu = (
        jax.tree.map(lambda x: rng.random(x.shape, np.float32), state.params)
        for _ in "mv"
    )
    moments = Moments(mu=mu, nu=nu, age=np.int32(7))
    state = dataclasses.replace(state, opt_state=with_moments(state.opt_state, moments))
    with Checkpoints(run, info.identity) as checkpoints:
        checkpoints.save(jax.tree.map(jnp.asarray, state))
        checkpoints.wait()
    return run, moments


@pytest.mark.parametrize("num_frozen", [0, 2])
def test_moments_are_kept_by_another_optimizer_on_another_mesh(
    tiny, before, num_frozen
):
    run, saved = before
    cfg = settings(
        tiny,
        optimizer=OptimizerConfig(freeze_layers=num_frozen),
        mesh=MeshConfig(fsdp=4, tensor=2),
        checkpoint=run,
        moments="keep",
    )
    mesh, abstract, fresh = build(cfg)
    start = start_pretraining(cfg, TOKENIZER, mesh)
    opt_state = with_moments(fresh.opt_state, start.moments)

    found = moments_of(opt_state)
    assert (found.age, opt_state_count(opt_state)) == (7, 0)
    for tree, expected in ((found.mu, saved.mu), (found.nu, saved.nu)):
        expected = reference.by_layer(expected)
        for name, tensor in reference.trained_by_layer(tree, num_frozen).items():
            # What was frozen before had no moments, and begins with zeros.
            trained = not reference.is_frozen(name, ("embed",), 1)
            np.testing.assert_array_equal(
                tensor, expected[name] * trained, err_msg=name
            )
    # A step under jit takes its arguments in these places and in no others.
    jax.tree.map(assert_placed, opt_state, abstract.opt_state)


def test_more_positions_than_the_checkpoint_has(tiny, before):
    """The table goes on from its beginning; all else is as it was."""
    run, _ = before
    known = tiny.max_positions
    longer = dataclasses.replace(tiny, max_positions=2 * known + 5)
    cfg = settings(longer, mesh=MeshConfig(data=8), checkpoint=run)
    mesh, abstract, _ = build(cfg)
    whole = start_pretraining(cfg, TOKENIZER, mesh).params
    usual = settings(tiny, mesh=MeshConfig(data=8), checkpoint=run)
    old = start_pretraining(usual, TOKENIZER, mesh).params
    jax.tree.map(assert_placed, whole, abstract.params)
    table = np.asarray(old["embed"]["position"]["embedding"])
    np.testing.assert_array_equal(
        whole["embed"]["position"]["embedding"],
        np.concatenate([table, table, table[:5]]),
    )
    whole["embed"]["position"] = old["embed"]["position"]
    jax.tree.map(np.testing.assert_array_equal, whole, old)
    for wrong, message in (
        ({"model": dataclasses.replace(tiny, max_positions=known - 1)}, "not fewer"),
        ({"moments": "keep"}, "which have no moments"),
    ):
        with pytest.raises(ValueError, match=message):
            start_pretraining(dataclasses.replace(cfg, **wrong), TOKENIZER, mesh)


def opt_state_count(opt_state):
    """Number of updates that the schedule has counted."""
    (count,) = (
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
        if "rate" in jax.tree_util.keystr(path)
    )
    return count


def assert_placed(leaf, like):
    assert leaf.shape == like.shape
    if leaf.ndim:
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


def test_the_encoder_of_a_run_is_known_by_its_hash(before):
    """With its pooler, as a classifier takes it, and without, as a tagger does."""
    run, _ = before
    [path] = (run / "checkpoints").iterdir()
    step = int(path.name)
    hashes = encoder_hashes(run, step)
    for parts in (("embed", "layers", "pooler"), ("embed", "layers")):
        origin = start_encoder(run, make_mesh(MeshConfig()), parts).origin
        assert hashes[origin["num_tensors"]] == origin["sha256"]
        assert origin["run"] == str(run.resolve())
    assert encoder_hashes(run, step + 1) == {}
