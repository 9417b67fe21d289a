"""A damaged checkpoint is not the end: older ones, copies, and those that are kept."""

import dataclasses
import errno
import os
import shutil

import numpy as np
import pytest
from small_states import small_state

from bert_jax.config import LoopConfig, PretrainConfig
from bert_jax.data.json_file import read_json
from bert_jax.train.runs import checkpoint_mirror
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.checkpoint_files import damage_of
from bert_jax.train.runs.checkpoint_fit import Identity
from bert_jax.train.runs.checkpoint_list import list_checkpoints
from bert_jax.train.runs.checkpoint_mirror import Mirror, steps_in
from bert_jax.train.runs.run import RunInfo, load_run
from bert_jax.train.runs.run_start import start_run


@pytest.fixture(scope="module")
def identity(tiny):
    return Identity(tiny, "a" * 64)


def save(run, identity, *steps, **options):
    with Checkpoints(run, identity, **{"keep": 3, **options}) as checkpoints:
        for step in steps:
            checkpoints.save(small_state(step))
            checkpoints.wait()


@pytest.fixture(scope="module")
def three_steps(identity, tmp_path_factory):
    run = tmp_path_factory.mktemp("three")
    save(run, identity, 1, 2, 3)
    return run


@pytest.fixture
def run(three_steps, tmp_path):
    """A copy to damage."""
    shutil.copytree(three_steps, tmp_path / "run")
    return tmp_path / "run"


def damage(run, step):
    """Changes one byte of the weights, and returns the file."""
    [file] = (run / f"checkpoints/{step}/params/d").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def test_a_run_goes_on_from_the_newest_whole_checkpoint(run, identity, capsys):
    files = [damage(run, 3), run / "checkpoints/2/manifest/metadata"]
    files[1].unlink()
    with Checkpoints(run, identity, keep=3) as checkpoints:
        assert checkpoints.newest_whole() == 1
        told = capsys.readouterr().out.splitlines()
        assert len(told) == 2
        for step, file, line in zip((3, 2), files, told, strict=True):
            assert f"step {step} is passed over" in line
            assert str(file) in line
            assert str(run / f"damaged/{step}") in line
        assert checkpoints.latest_step() == 1
        restored = checkpoints.restore(small_state(0), 1)
        np.testing.assert_array_equal(restored.params["a"], small_state(1).params["a"])
        # What was passed over stays until its step has been saved again.
        checkpoints.save(small_state(2))
        checkpoints.wait()
        assert steps_in(run / "damaged") == [3]
        checkpoints.save(small_state(3))
        checkpoints.wait()
        assert steps_in(run / "damaged") == []
        assert int(checkpoints.restore(small_state(0)).step) == 3


@pytest.mark.parametrize(("keep_every", "left"), [(None, [3, 2]), (1, [3, 2, 1])])
def test_what_a_kill_left_of_an_old_checkpoint_is_deleted(
    run, identity, keep_every, left
):
    """Orbax deletes file by file, after the newest checkpoint is complete."""
    shutil.rmtree(run / "checkpoints/1/manifest")
    with Checkpoints(run, identity, keep=2, keep_every=keep_every) as checkpoints:
        assert checkpoints.newest_whole() == 3
        assert steps_in(run / "checkpoints") == left
        checkpoints.save(small_state(4))
        checkpoints.wait()
    assert steps_in(run / "checkpoints")[:2] == [4, 3]


def test_old_checkpoints_stay_while_newer_ones_are_damaged(run, identity):
    damage(run, 3)
    damage(run, 2)
    with Checkpoints(run, identity, keep=1) as checkpoints:
        assert checkpoints.newest_whole() == 1
    assert steps_in(run / "checkpoints") == [1]


def test_a_copy_is_whole_or_does_not_appear(run, tmp_path):
    copied = tmp_path / "mirror" / "3"
    for _ in range(2):  # also in place of an older copy
        checkpoint_mirror.copy_checkpoint(run / "checkpoints/3", copied)
        assert damage_of(copied) is None
    damage(run, 3)
    with pytest.raises(ValueError, match="params/d"):
        checkpoint_mirror.copy_checkpoint(run / "checkpoints/3", copied)
    assert damage_of(copied) is None
    assert [path.name for path in copied.parent.iterdir()] == ["3"]


def test_a_checked_checkpoint_is_checked_again_the_next_time(run, identity):
    with Checkpoints(run, identity, keep=3) as checkpoints:
        assert checkpoints.newest_whole() == 3
        checkpoints.restore(small_state(0), 3)
        damage(run, 3)
        with pytest.raises(ValueError, match="of step 3 is damaged"):
            checkpoints.restore(small_state(0), 3)


def test_no_whole_checkpoint_is_an_error_and_moves_nothing(run, identity):
    files = [damage(run, step) for step in (1, 2, 3)]
    with Checkpoints(run, identity, keep=3) as checkpoints:
        with pytest.raises(ValueError, match="no older checkpoint that is whole") as no:
            checkpoints.newest_whole()
        assert str(files[2]) in str(no.value)
    assert steps_in(run / "checkpoints") == [3, 2, 1]


def test_a_new_run_has_none(tmp_path, identity):
    with Checkpoints(tmp_path, identity) as checkpoints:
        assert checkpoints.newest_whole() is None


def test_multiples_of_a_step_are_kept(tmp_path, identity):
    save(tmp_path, identity, 1, 2, 3, keep=1, keep_every=2)
    assert steps_in(tmp_path / "checkpoints") == [3, 2]


def mirrored(run, home, identity, *steps, every=1, keep=3):
    save(run, identity, *steps, mirror=Mirror(run, home, every=every, keep=keep))


def test_a_run_without_a_whole_checkpoint_takes_that_of_its_mirror(
    tmp_path, identity, capsys
):
    run, home = tmp_path / "run", tmp_path / "mirror"
    run.mkdir()
    (run / "metrics.jsonl").write_text("{}\n")
    for step in (1, 2):
        mirrored(run, home, identity, step)
    assert steps_in(home / "checkpoints") == [2, 1]
    assert (home / "metrics.jsonl").read_text() == "{}\n"
    for step in (1, 2):
        damage(run, step)
    unusable = damage(home, 2)
    left_by_a_kill = run / "checkpoints-of-mirror/2.partial-0af"
    left_by_a_kill.mkdir(parents=True)
    with Checkpoints(
        run, identity, mirror=Mirror(run, home, every=1, keep=3)
    ) as checkpoints:
        assert checkpoints.newest_whole() == 1
        told = capsys.readouterr().out
        assert f"the copy of step 2 in {home} cannot be used" in told
        assert unusable.name in told
        assert f"{run} has no whole checkpoint; the one of step 1 was copied" in told
        restored = checkpoints.restore(small_state(0), 1)
    np.testing.assert_array_equal(restored.params["a"], small_state(1).params["a"])
    assert steps_in(run / "damaged") == [2, 1]
    assert {path.name for path in run.iterdir()} == {
        *("checkpoints", "damaged", "metrics.jsonl")
    }


def test_a_mirror_gets_some_and_keeps_the_newest(run, tmp_path):
    for step in (4, 5, 6):
        shutil.copytree(run / "checkpoints/1", run / f"checkpoints/{step}")
    left_by_a_kill = tmp_path / "mirror/checkpoints/9.partial-0af"
    left_by_a_kill.mkdir(parents=True)
    for step in range(1, 7):
        mirror = Mirror(run, tmp_path / "mirror", every=2, keep=2)
        mirror.follow(step)
        mirror.close()
    assert steps_in(mirror.home / "checkpoints") == [5, 3]
    assert not list((mirror.home / "checkpoints").glob("*.partial-*"))


def test_a_mirror_that_cannot_be_written_stops_nothing(tmp_path, identity, capsys):
    run, home = tmp_path / "run", tmp_path / "mirror"
    home.write_text("a file")
    mirrored(run, home, identity, 1)
    assert steps_in(run / "checkpoints") == [1]
    assert f"step 1 was not copied to {home}" in capsys.readouterr().out


def test_a_full_mirror_is_said_in_a_line(run, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    mirror = Mirror(run, tmp_path / "mirror", every=1, keep=1)
    mirror.follow(1)
    mirror.close()
    assert capsys.readouterr().out == (
        f"note: the checkpoint of step 1 was not copied to {mirror.home} ([Errno 28] No "
        "space left on device). The run goes on.\n"
    )
    assert not list((mirror.home / "checkpoints").iterdir())


def test_a_mirror_is_found_from_every_folder(tmp_path, identity, monkeypatch):
    info = RunInfo(
        kind="pretrain", model=identity.model, tokenizer_sha256="a" * 64, data={}
    )
    config = PretrainConfig(model=identity.model, loop=LoopConfig(mirror="copies"))
    monkeypatch.chdir(tmp_path)
    start_run(tmp_path / "run", config, info, NoTokenizer())
    mirrored(tmp_path / "run", tmp_path / "copies", identity, 1)
    monkeypatch.chdir("/")
    places = {x.place for x in list_checkpoints(tmp_path / "run")}
    assert places == {"checkpoints", f"{tmp_path}/copies/checkpoints"}


class NoTokenizer:
    def save(self, directory):
        directory.mkdir()


def test_a_lost_run_directory_is_made_from_its_mirror(tmp_path, identity):
    run, home = tmp_path / "run", tmp_path / "mirror"
    info = RunInfo(
        kind="pretrain", model=identity.model, tokenizer_sha256="a" * 64, data={}
    )
    config = PretrainConfig(loop=LoopConfig(mirror=str(home)))

    def begin(config, run=run):
        start_run(run, config, info, NoTokenizer())

    begin(config)
    before = read_json(run / "run.json", "")
    mirrored(run, home, identity, 5)
    shutil.rmtree(run)
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match=r"seed is 0 there.*another --loop.mirror"):
        begin(other)
    assert not run.exists()
    begin(config)
    assert read_json(run / "run.json", "") == before
    with Checkpoints(
        run, identity, mirror=Mirror(run, home, every=1, keep=3)
    ) as checkpoints:
        assert checkpoints.newest_whole() == 5
    # Another run must not take it for its own.
    with pytest.raises(ValueError, match="holds a run with other settings"):
        begin(other, tmp_path / "other")
    assert load_run(run).model == identity.model


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_every_steps": 0},
        {"keep_every_steps": 1_500},
        {"mirror": ""},
        {"mirror_every_steps": 2},
        {"mirror": "x", "mirror_every_steps": 0},
    ],
    ids=str,
)
def test_settings_that_would_do_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        LoopConfig(**wrong)
