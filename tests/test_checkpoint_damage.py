"""Random damage to any file of a checkpoint is found and named, or is without effect."""

import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.damage import UNUSED, damage_one, files_of
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.checkpoint_files import MANIFEST_FILE, damage_of
from bert_jax.train.runs.checkpoint_fit import Identity
from bert_jax.train.step import TrainState

NUM_DAMAGES = 60


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    numbers = jnp.arange(5_000.0)
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(jnp.int32(1), {"a": numbers}, {"m": -numbers}, key)
    with Checkpoints(run, Identity(tiny, "a" * 64)) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    return run / "checkpoints" / "1"


def test_every_damage_is_found_by_the_name_of_the_file(checkpoint):
    assert damage_of(checkpoint) is None
    files = [path for path in files_of(checkpoint) if path.name not in UNUSED]
    assert len(files) > 12
    draw = random.Random(0)
    for number in range(NUM_DAMAGES):
        # Each file at least once.
        path = files[number] if number < len(files) else draw.choice(files)
        with damage_one(path, draw) as what:
            assert str(path) in (damage_of(checkpoint) or ""), what
    manifest = checkpoint / MANIFEST_FILE
    whole = manifest.read_bytes()
    for content in (b"", b"[]", b"{}", b"1", b"\xff"):
        manifest.write_bytes(content)
        assert str(manifest) in (damage_of(checkpoint) or ""), content
    manifest.write_bytes(whole)
    assert damage_of(checkpoint) is None


def test_damage_to_marks_of_orbax_changes_nothing(checkpoint, tiny):
    """They say when a checkpoint was written, and are not read here."""
    marks = [path for path in files_of(checkpoint) if path.name in UNUSED]
    assert {path.name for path in marks} == UNUSED
    for path in marks:
        path.write_bytes(b"[]")
    run: pathlib.Path = checkpoint.parents[1]
    abstract = {"a": jax.ShapeDtypeStruct((5_000,), jnp.float32)}
    with Checkpoints(run, Identity(tiny, "a" * 64), keep=2) as checkpoints:
        assert checkpoints.newest_whole() == 1
        found = checkpoints.restore_params(abstract)
        np.testing.assert_array_equal(found["a"], np.arange(5_000.0))
        state = TrainState(jnp.int32(2), found, {"m": -found["a"]}, jnp.zeros(2, "u4"))
        checkpoints.save(state)
        checkpoints.wait()
        assert int(checkpoints.restore(state).step) == 2
