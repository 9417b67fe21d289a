"""Restarts, signals and copies: real processes, real files."""

import os
import signal
import subprocess

import pytest
from launch_tools import (
    LAUNCH,
    SAVES_WHEN_STOPPED,
    crashing,
    program,
    run,
    starts,
    wait_for,
)

SUPERVISE, STAGE = LAUNCH / "supervise.sh", LAUNCH / "stage.sh"


@pytest.mark.parametrize(
    ("codes", "end", "times"),
    [
        ((0,), 0, 1),
        ((134, 1, 0), 0, 3),
        ((134,), 134, 4),  # three restarts are allowed below
        ((2,), 2, 1),
        ((1,), 1, 1),
        ((134, 130), 130, 2),
        ((127,), 127, 1),
    ],
    ids=str,
)
def test_crashes_are_forgiven_up_to_a_number(tmp_path, codes, end, times):
    status = tmp_path / "status"
    env = {"MAX_RESTARTS": "3", "RESTART_DELAY": "0"}
    command = crashing(tmp_path, *codes)
    run(SUPERVISE, "--status", status, "--", command, env=env, code=end)
    assert starts(tmp_path) == times
    assert status.read_text() == f"exited {end}\n"


def test_a_number_that_begins_with_0_is_decimal(tmp_path):
    env = {"MAX_RESTARTS": "08", "RESTART_DELAY": "0"}
    run(SUPERVISE, "--", crashing(tmp_path, 134), env=env, code=134)
    assert starts(tmp_path) == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command_once_and_nothing_starts_again(tmp_path, number):
    own = tmp_path / "pid"
    command = program(tmp_path / "saves", f"echo $$ >{own}{SAVES_WHEN_STOPPED}")
    status, log = tmp_path / "status", tmp_path / "log"
    # A shell cannot trap what is ignored when it starts, as SIGINT is in a job in the
    # background, which these tests may be.
    prefix = ("env", "--default-signal=INT")
    with log.open("w") as out:
        supervised = subprocess.Popen(
            [*prefix, SUPERVISE, "--status", status, "--", command, "a b"],
            stdout=out,
            start_new_session=True,  # so that the group is its own
        )
    wait_for(lambda: "started" in log.read_text(), "the start")
    assert status.read_text() == f"running {supervised.pid}\n"
    # What Ctrl-C does to a whole group must not reach the command by itself.
    assert os.getpgid(int(own.read_text())) != supervised.pid
    os.killpg(supervised.pid, number)
    wait_for(lambda: "TERM" in log.read_text(), "the signal")
    os.kill(supervised.pid, number)
    assert supervised.wait(20) == 130
    assert log.read_text() == "started a b\nTERM 1\nsaved\n"
    assert status.read_text() == "exited 130\n"


def test_a_signal_between_two_starts_ends_it(tmp_path):
    command = crashing(tmp_path, 134)
    supervised = subprocess.Popen(
        [SUPERVISE, "--", command], stderr=subprocess.PIPE, text=True
    )
    assert "restart 1 of 5 in 30 s" in supervised.stderr.readline()
    supervised.terminate()
    supervised.communicate(timeout=20)
    assert supervised.returncode == 130
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ((), {}, "no command"),
        (("--max-restart", "1", "--", "true"), {}, "--max-restart: unknown option"),
        (("true",), {}, "true: unknown option"),
        (
            ("--", "true"),
            {"RESTART_DELAY": "soon"},
            "RESTART_DELAY=soon is not a whole",
        ),
        (("--", "true"), {"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1 is not a whole"),
    ],
)
def test_supervise_refuses_what_it_cannot_read(arguments, env, message):
    assert message in run(SUPERVISE, *arguments, env=env, code=2).stderr


def test_a_dataset_is_copied_once_and_again_when_it_changes(tmp_path):
    source, copy = tmp_path / "mount/wiki", tmp_path / "disk/wiki"
    (source / "index").mkdir(parents=True)
    (source / "index/a b").write_text("1")
    shown = run(STAGE, source, copy, "--", "echo", "x y")
    assert shown.stdout == "x y\n"
    assert (copy / "index/a b").read_text() == "1"

    (copy / "index/plan").write_text("a host's own")
    assert "is there already" in run(STAGE, source, copy).stderr
    assert (copy / "index/plan").exists()

    (source / "index/a b").write_text("12")
    run(STAGE, source, copy)
    assert (copy / "index/a b").read_text() == "12"
    assert not (copy / "index/plan").exists()


def test_signals_reach_the_command_behind_a_copy(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_text("1")
    command = program(tmp_path / "saves", SAVES_WHEN_STOPPED)
    staged = subprocess.Popen(
        [STAGE, tmp_path / "source", tmp_path / "copy", "--", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert staged.stdout.readline() == "started\n"
    staged.terminate()
    assert staged.communicate(timeout=20)[0] == "TERM 1\nsaved\n"
    assert staged.returncode == 130


def test_stage_refuses_what_is_not_there(tmp_path):
    missing = run(STAGE, tmp_path / "none", tmp_path / "copy", code=2)
    assert "is the volume mounted?" in missing.stderr
    (tmp_path / "empty").mkdir()
    assert "no file" in run(STAGE, tmp_path / "empty", tmp_path / "b", code=2).stderr
    assert "two directories" in run(STAGE, tmp_path, code=2).stderr


def test_stage_deletes_nothing_but_its_own_copies(tmp_path):
    """A user may think that the copy is put into the directory, or name one path twice."""
    source, other = tmp_path / "scratch/wiki", tmp_path / "home"
    source.mkdir(parents=True)
    other.mkdir()
    for kept in (source / "a", other / "thesis"):
        kept.write_text("1")
    for place in (
        source,
        source / "copy",
        source.parent,
        tmp_path / "scratch/../scratch",
    ):
        assert "in each other" in run(STAGE, source, place, code=2).stderr
    assert "no copy of this script" in run(STAGE, source, other, code=2).stderr
    assert (source / "a").exists()
    assert (other / "thesis").exists()
    (tmp_path / "mounted").mkdir()  # an empty volume
    run(STAGE, source, tmp_path / "mounted")
    assert (tmp_path / "mounted/a").exists()


def test_a_copy_that_was_cut_short_is_made_again(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    (source / "a").write_text("1")
    run(STAGE, source, copy)
    (source / "a").write_text("12")
    full = program(tmp_path / "bin/cp", "exit 1")
    path = f"{full.parent}:{os.environ['PATH']}"
    run(STAGE, source, copy, env={"PATH": path}, code=1)
    run(STAGE, source, copy)
    assert (copy / "a").read_text() == "12"
