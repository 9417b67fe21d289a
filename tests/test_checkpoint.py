"""Checkpoints: whole, exact, on any mesh, or refused."""

import concurrent.futures
import dataclasses
import functools
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small_states import small_state

from bert_jax.config import MeshConfig, OptimizerConfig
from bert_jax.data.hashes import json_sha256
from bert_jax.model import pretraining
from bert_jax.train.mesh import make_mesh
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import Checkpoints, Identity
from bert_jax.train.runs.checkpoint_items import barrier
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, init_state
from bert_jax.train.tensors import describe, tensors_sha256

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
        pytest.raises(
            ValueError, match="tokenizer aaaaaaaaaaaa, but the tokenizer here is bbbbbb"
        ),
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
        with pytest.raises(ValueError, match="holds weights alone"):
            checkpoints.restore_opt_state(abstract.opt_state)
    assert not list(tmp_path.glob("checkpoints/*/opt_state"))


@pytest.mark.parametrize("version", [2, 4])
def test_another_format_is_refused_by_its_version(saved, tiny, tmp_path, version):
    abstract = abstract_of(tiny)
    shutil.copytree(saved[0], tmp_path / "other")
    [file] = (tmp_path / "other").glob("checkpoints/*/manifest/metadata")
    manifest = json.loads(file.read_text()) | {"format_version": version}
    del manifest["sha256"]
    file.write_text(json.dumps({**manifest, "sha256": json_sha256(manifest)}))
    with Checkpoints(tmp_path / "other", Identity(tiny, SHA), read_only=True) as other:
        for restore, wanted in (
            (other.restore_params, abstract.params),
            (other.restore_opt_state, abstract.opt_state),
            (other.restore, abstract),
        ):
            with pytest.raises(
                ValueError, match=f"format {version}; .* reads 3. Start a new run"
            ):
                restore(wanted)


@pytest.fixture(scope="module")
def two_steps(tiny, tmp_path_factory):
    """A run directory with the small checkpoints of steps 1 and 2."""
    run = tmp_path_factory.mktemp("two")
    with Checkpoints(run, Identity(tiny, SHA), keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(small_state(step))
            checkpoints.wait()
    return run


def test_a_damaged_file_is_found_and_named(two_steps, tiny, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    newest = run / "checkpoints" / "2"
    abstract = small_state(2)
    files = [
        path
        for path in newest.rglob("*")
        # Orbax's own marks, which say nothing about a tensor.
        if path.is_file()
        and path.parent != newest
        and path.name != "commit_success.txt"
    ]
    assert len(files) > 12
    parts = {path.relative_to(newest).parts[0] for path in files}
    assert parts == {"params", "opt_state", "rest", "manifest"}
    with Checkpoints(run, Identity(tiny, SHA), read_only=True) as checkpoints:
        for path in files:
            content = path.read_bytes()
            path.write_bytes(content + b"x")
            with pytest.raises(ValueError, match="of step 2 is damaged") as refused:
                checkpoints.restore(abstract)
            assert f"{path} is " in str(refused.value)
            assert "The checkpoint of step 1 is whole: --step 1" in str(refused.value)
            path.write_bytes(content)
        assert int(checkpoints.restore(abstract).step) == 2


def test_weights_are_read_though_the_moments_are_damaged(two_steps, tiny, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    for path in (run / "checkpoints" / "2" / "opt_state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    state = small_state(2)
    with Checkpoints(run, Identity(tiny, SHA), read_only=True) as checkpoints:
        params = checkpoints.restore_params(state.params)
        np.testing.assert_array_equal(params["a"], state.params["a"])
        with pytest.raises(ValueError, match=r"opt_state/\S+ is not what was saved"):
            checkpoints.restore_opt_state(state.opt_state)


@pytest.fixture
def small_files():
    """Lets no file of this process grow beyond 40 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_one_sentence_and_harms_nothing(tiny, tmp_path, capfd):
    state = small_state(2)
    noise = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    large = dataclasses.replace(state, params={"a": jnp.asarray(noise)})

    def save_both():
        with Checkpoints(tmp_path, Identity(tiny, SHA), keep=2) as checkpoints:
            for state in (small_state(1), large):
                checkpoints.save(state)
                checkpoints.wait()

    with pytest.raises(OSError, match=r"file too large\. Older checkpoints") as error:
        save_both()
    assert "\n" not in str(error.value)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    with Checkpoints(tmp_path, Identity(tiny, SHA), keep=2) as checkpoints:
        assert int(checkpoints.restore(state).step) == 1
        checkpoints.save(state)
        checkpoints.wait()
        assert int(checkpoints.restore(state).step) == 2
    assert not list(tmp_path.glob("checkpoints/*tmp*"))


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


def test_a_process_whose_write_has_failed_waits_for_no_other(monkeypatch):
    met = []
    monkeypatch.setattr(
        ocp.multihost, "get_barrier_sync_fn", lambda: lambda **to: met.append(to)
    )

    def finalize(error):
        try:
            if error is not None:
                raise error
        finally:
            barrier(key="end", timeout_ms=5)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        failure = OSError("no space left")
        assert thread.submit(finalize, failure).exception() is failure
        assert not met
        thread.submit(finalize, None).result()
    assert met == [{"key": "end", "timeout_ms": 5}]
