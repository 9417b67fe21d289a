"""Checkpoints: whole, exact, on any mesh, or refused."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax.config import MeshConfig, OptimizerConfig
from bert_jax.model import pretraining
from bert_jax.train.checkpoint import (
    Checkpoints,
    Identity,
    describe,
    tensors_sha256,
)
from bert_jax.train.mesh import make_mesh
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, init_state

SHA = "a" * 64


def placed(cfg, layout, num_devices):
    """The abstract state of a layout, and what draws the state of step 0."""
    mesh = make_mesh(layout, jax.devices()[:num_devices])
    settings = OptimizerConfig()
    optimizer = make_optimizer(settings, make_schedule(settings, 20_000))

    def make_state():
        init = functools.partial(pretraining.init_params, cfg)
        return init_state(init, optimizer, 0)

    return abstract_state(make_state, mesh), make_state


def abstract_of(cfg, layout=MeshConfig(), num_devices=1):  # noqa: B008
    """Shapes, types and placements of a state."""
    return placed(cfg, layout, num_devices)[0]


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A run directory whose checkpoint eight devices wrote, and its state."""
    run = tmp_path_factory.mktemp("run")
    abstract, make_state = placed(tiny, MeshConfig(data=2, fsdp=2, tensor=2), 8)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    state = jax.jit(make_state, out_shardings=places)()
    # Moments that are not zero, so that a swapped tree would show.
    state = dataclasses.replace(
        state,
        step=state.step + 7,
        opt_state=jax.tree.map(lambda x: x + 1 + x.size, state.opt_state),
    )
    with Checkpoints(run, Identity(tiny, SHA)) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    return run, state


@pytest.mark.parametrize(
    ("layout", "num_devices"),
    [(MeshConfig(), 1), (MeshConfig(data=8), 8), (MeshConfig(data=1, fsdp=4), 4)],
    ids=str,
)
def test_any_mesh_restores_what_eight_devices_wrote(saved, tiny, layout, num_devices):
    run, state = saved
    abstract = abstract_of(tiny, layout, num_devices)
    with Checkpoints(run, Identity(tiny, SHA), read_only=True) as checkpoints:
        restored = checkpoints.restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(
        lambda x: x.sharding, abstract
    )


def test_parameters_are_restored_without_the_optimizer(saved, tiny):
    run, state = saved
    abstract = abstract_of(tiny)
    with Checkpoints(run, Identity(tiny, SHA), read_only=True) as checkpoints:
        params = checkpoints.restore_params(abstract.params)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_another_architecture_is_refused_by_name(saved, tiny):
    run, _ = saved
    wider = dataclasses.replace(tiny, mlp_size=64)
    abstract = abstract_of(wider)
    with (
        Checkpoints(run, Identity(tiny, SHA), read_only=True) as checkpoints,
        pytest.raises(ValueError, match=r"mlp/up/kernel is float32\[3,32,48\].*64"),
    ):
        checkpoints.restore(abstract)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gelu": "exact"}, "gelu is 'tanh' in the checkpoint and 'exact' here"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-12 in the checkpoint"),
        ({"init_std": 0.5}, "init_std is 0.02 in the checkpoint and 0.5 here"),
        # Shapes are equal: both tables are padded to 128 rows.
        ({"vocab_size": 60}, "vocab_size is 61 in the checkpoint and 60 here"),
    ],
    ids=str,
)
def test_a_change_that_no_shape_shows_is_refused(saved, tiny, change, message):
    run, _ = saved
    other = dataclasses.replace(tiny, **change)
    abstract = abstract_of(other)
    with (
        Checkpoints(run, Identity(other, SHA), read_only=True) as checkpoints,
        pytest.raises(ValueError, match=message),
    ):
        checkpoints.restore_params(abstract.params)


def test_another_tokenizer_is_refused(saved, tiny):
    run, _ = saved
    abstract = abstract_of(tiny)
    with (
        Checkpoints(run, Identity(tiny, "b" * 64), read_only=True) as checkpoints,
        pytest.raises(ValueError, match="tokenizer aaaaaaaaaaaa, here it is bbbbbb"),
    ):
        checkpoints.restore(abstract)


def test_a_state_without_moments_is_kept_without_them(saved, tiny, tmp_path):
    _, state = saved
    abstract = abstract_of(tiny)
    bare = dataclasses.replace(state, opt_state=None)
    with Checkpoints(tmp_path, Identity(tiny, SHA)) as checkpoints:
        checkpoints.save(bare)
        checkpoints.wait()
        params = checkpoints.restore_params(abstract.params)
        jax.tree.map(np.testing.assert_array_equal, params, state.params)
        with pytest.raises(ValueError, match="is missing in the checkpoint"):
            checkpoints.restore_opt_state(abstract.opt_state)
    assert not list(tmp_path.glob("checkpoints/*/opt_state"))


def test_the_older_format_gives_its_weights_and_nothing_else(saved, tiny, tmp_path):
    run, state = saved
    abstract = abstract_of(tiny)
    shutil.copytree(run, tmp_path / "old")
    [file] = (tmp_path / "old").glob("checkpoints/*/manifest/metadata")
    manifest = json.loads(file.read_text()) | {"format_version": 1}
    manifest["model"]["remat"] = "dots"  # settings of the computation stood there too
    file.write_text(json.dumps(manifest))
    with Checkpoints(tmp_path / "old", Identity(tiny, SHA), read_only=True) as old:
        params = old.restore_params(abstract.params)
        jax.tree.map(np.testing.assert_array_equal, params, state.params)
        with pytest.raises(ValueError, match=r"format 1; .* reads 2, and only the w"):
            old.restore(abstract)
        with pytest.raises(ValueError, match="fresh moments"):
            old.restore_opt_state(abstract.opt_state)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_missing_or_extra_tensor_is_refused_by_name(saved, tiny, change):
    run, _ = saved
    abstract = abstract_of(tiny)
    params = dict(abstract.params)
    if change == "missing":
        params["adapter"] = {"bias": params["nsp"]["bias"]}
        expected = "params/adapter/bias is missing in the checkpoint"
    else:
        del params["nsp"]
        expected = "params/nsp/bias is float32.* and not wanted here"
    with (
        Checkpoints(run, Identity(tiny, SHA), read_only=True) as checkpoints,
        pytest.raises(ValueError, match=expected),
    ):
        checkpoints.restore_params(params)


def test_half_written_checkpoints_are_never_picked_up(saved, tiny, tmp_path):
    _, state = saved
    with Checkpoints(tmp_path, Identity(tiny, SHA)) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    # What Orbax leaves behind when it is killed before the final rename.
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp" / "params").mkdir()
    with Checkpoints(tmp_path, Identity(tiny, SHA), read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 7


def test_a_directory_without_checkpoints_is_named(tmp_path, tiny):
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        Checkpoints(tmp_path, Identity(tiny, SHA), read_only=True)


def test_the_hash_covers_names_and_values(tiny):
    tree = {"a": np.arange(3.0), "b": np.arange(2.0)}
    same = {"b": np.arange(2.0), "a": np.arange(3.0)}
    assert tensors_sha256(tree) == tensors_sha256(same)
    assert tensors_sha256(tree) != tensors_sha256({"a": tree["a"], "c": tree["b"]})
    assert tensors_sha256(tree) != tensors_sha256({"a": tree["a"] + 1, "b": tree["b"]})


def test_describe_names_types_and_shapes():
    tree = {"a": {"b": np.zeros((2, 3), np.float32)}, "c": np.int32(4)}
    assert describe(tree) == {"a/b": "float32[2,3]", "c": "int32[]"}
