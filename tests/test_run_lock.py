"""One process trains in a run directory; the lock of a dead one is no obstacle."""

import contextlib
import errno
import json
import os
import shutil
import threading
import time

import pytest

from bert_jax.train.runs import run_lock
from bert_jax.train.runs.run_lock import RunLock, only_trainer

ELSEWHERE = {"host": "elsewhere", "pid": 7, "since": "yesterday", "id": "x"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "_BEAT_SECS", 0.02)
    monkeypatch.setattr(run_lock, "_STALE_SECS", 0.3)


def lost(lock: RunLock) -> str:
    """What `check` says when it notices."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            lock.check()
        except OSError as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError("nothing was noticed")


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path):
    with RunLock(tmp_path) as lock:
        with pytest.raises(
            ValueError, match=rf"trained by process {os.getpid()} on \S+, since"
        ):
            RunLock(tmp_path).__enter__()
        lock.check()
    with RunLock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def pwrite(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match=r"No space left on device: '.*/\.lock'$"):
        RunLock(tmp_path).__enter__()


def test_what_a_kill_left_half_written_is_deleted(tmp_path):
    (tmp_path / "goodput.json").touch()
    for name in ("goodput.json.partial-7", ".seen-by-all.partial-0af"):
        (tmp_path / name).touch()
    with only_trainer(tmp_path):
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".lock", "goodput.json"]


def test_the_lock_of_a_process_that_died_here_is_taken_at_once(tmp_path, capsys):
    with RunLock(tmp_path):
        left = (tmp_path / ".lock").read_bytes()
    for content in (left, b"", b"\xff no JSON", b"[]"):
        (tmp_path / ".lock").write_bytes(content)
        with RunLock(tmp_path):
            pass
    assert not capsys.readouterr().out


def test_a_silent_holder_elsewhere_is_dead_after_a_while(tmp_path, capsys):
    (tmp_path / ".lock").write_text(json.dumps(ELSEWHERE))
    with RunLock(tmp_path) as lock:
        lock.check()
    assert "last trained by process 7 on elsewhere" in capsys.readouterr().out
    # Where the system's lock is not passed on, an old file is enough.
    (tmp_path / ".lock").write_text(json.dumps(ELSEWHERE))
    os.utime(tmp_path / ".lock", (1e9, 1e9))
    with RunLock(tmp_path):
        pass
    assert not capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_holder_elsewhere_that_lives_is_respected(tmp_path):
    file, ended = tmp_path / ".lock", threading.Event()
    file.write_text(json.dumps(ELSEWHERE))

    def beat():
        while not ended.wait(0.02):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ValueError, match="process 7 on elsewhere, since yesterday"):
            RunLock(tmp_path).__enter__()
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_directory_that_vanishes_is_noticed(tmp_path, how):
    run = tmp_path / "run"
    run.mkdir()
    with RunLock(run) as lock:
        if how == "deleted":
            shutil.rmtree(run)
        else:
            run.rename(tmp_path / "other")
        if how == "replaced":
            run.mkdir()
            (run / ".lock").touch()
        assert f"{run} was moved or deleted" in lost(lock)


def test_a_process_that_slept_too_long_notices_who_took_over(tmp_path):
    with contextlib.suppress(OSError), RunLock(tmp_path) as lock:
        (tmp_path / ".lock").write_text(json.dumps(ELSEWHERE))
        assert f"{tmp_path} was taken over by process 7 on elsewhere" in lost(lock)
    # The lock of the other one is left as it is.
    assert json.loads((tmp_path / ".lock").read_text()) == ELSEWHERE
