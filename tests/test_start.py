"""The start and the end of the program's process: signals, streams, TPUs."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bert_jax.runtime import start

ROOT = pathlib.Path(__file__).parents[1]
SENTENCE = "bert-jax: interrupted; start the same command again to continue\n"
BEGIN = """
import os, signal, sys, time
from bert_jax.runtime import start
start.begin()
"""


def environment(**more: str) -> dict[str, str]:
    """Of a user's shell; with what `begin` would set, so that it need not start again."""
    # libtpu leaves variables of its own in the process that imports it.
    kept = {
        name: x
        for name, x in os.environ.items()
        if "PYTEST" not in name and not name.startswith("TPU_")
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "GLIBC_TUNABLES": start.HUGE_PAGES,
        "JAX_PLATFORMS": "cpu",
        **more,
    }


def script(text: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_before_the_command_runs_is_one_sentence(number):
    done = script(f"{BEGIN}\nos.kill(os.getpid(), signal.{number})\ntime.sleep(20)")
    assert (done.returncode, done.stderr) == (130, SENTENCE)


def test_a_signal_while_the_process_starts_again_is_not_lost():
    env = environment()
    del env["GLIBC_TUNABLES"]
    text = """
import os, signal, time
from bert_jax.runtime import start
execve = os.execve
def with_signal(*args):
    os.kill(os.getpid(), signal.SIGINT)
    execve(*args)
os.execve = with_signal
start.begin()
time.sleep(20)
"""
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, SENTENCE)


def test_a_signal_that_python_drops_in_a_callback_comes_again():
    text = f"""{BEGIN}
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
start.command_begins("evaluate")
try:
    Dropping()
    time.sleep(20)
except KeyboardInterrupt:
    print("unwound")
"""
    done = script(text)
    assert (done.returncode, done.stdout, done.stderr) == (130, "unwound\n", "")


def test_a_second_signal_ends_a_process_whose_main_thread_is_busy():
    text = f"""{BEGIN}
import ctypes
start.command_begins("evaluate")
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
try:
    print("ready", flush=True)
    lock(mutex)  # never returns, whatever signal comes
except KeyboardInterrupt:
    lock(mutex)  # the first signal came before the lock was entered
"""
    with subprocess.Popen(
        [sys.executable, "-c", text],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, SENTENCE)


def test_a_signal_during_an_import_ends_at_once(tmp_path):
    """Native modules, such as NumPy's, print and raise other errors of an interrupt."""
    (tmp_path / "native.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('broken') from None\n"
    )
    text = f"""{BEGIN}
start.command_begins("evaluate")
sys.path.insert(0, {str(tmp_path)!r})
import native
"""
    done = script(text)
    assert (done.returncode, done.stderr) == (130, SENTENCE)


def test_an_ignored_signal_stays_ignored():
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = script(
        f"{ignore}\n{BEGIN}\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')"
    )
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_closed_streams_are_opened_so_that_no_file_takes_their_place(tmp_path):
    text = f"""{BEGIN}
with open({str(tmp_path / "told")!r}, "w") as file:
    file.write(f"{{file.fileno() > 2}} {{sys.stdin.read()!r}}")
print("lost")
"""
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run(
        f"exec {sys.executable} {tmp_path / 'script.py'} <&- >&- 2>&-",
        shell=True,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / "told").read_text() == "True ''"


def test_text_that_the_terminal_cannot_show_ends_nothing():
    done = script(f"{BEGIN}\nprint('\\u65e5\\u672c')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "\\u65e5\\u672c\n")


def test_files_hold_utf8_whatever_the_locale_says():
    env = environment(LC_ALL="en_US.ISO-8859-1", PYTHONCOERCECLOCALE="0")
    del env["PYTHONUTF8"]
    text = f"{BEGIN}\nimport tempfile\nprint(tempfile.TemporaryFile('w').encoding)"
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.lower() == "utf-8\n"


@pytest.mark.parametrize(
    ("command", "more", "is_hidden"),
    [
        ("pretrain", {}, True),
        ("compile", {}, False),
        ("pretrain", {"TPU_WORKER_ID": "0"}, False),
        ("pretrain", {"TPU_LIBRARY_PATH": "/lib/libtpu.so"}, False),
    ],
)
def test_only_compile_looks_for_libtpu_where_no_tpu_is(command, more, is_hidden):
    text = f"""{BEGIN}
import importlib.util
start.command_begins({command!r})
print("libtpu" in sys.modules and importlib.util.find_spec("libtpu") is None)
"""
    assert script(text, **more).stdout == f"{is_hidden}\n"


@pytest.mark.parametrize("found", ["/dev/accel0", "/dev/vfio/0"])
def test_a_machine_with_tpu_devices_may_have_one(monkeypatch, found):
    for name in start._TPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("glob.glob", lambda x: [found] if x[:8] == found[:8] else [])
    assert start._may_have_tpu()
    monkeypatch.setattr("glob.glob", lambda x: [])
    assert not start._may_have_tpu()


@pytest.mark.slow
@pytest.mark.parametrize("secs", [0.6, 1.5, 4.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_answers_early_signals(tmp_path, secs, number):
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bert_jax",
            "pretrain",
            "--output",
            str(tmp_path / "run"),
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(secs)
    child.send_signal(number)
    _, err = child.communicate(timeout=120)
    assert child.returncode in (130, 1)  # 1: it has refused to run without a dataset
    if child.returncode == 130:
        assert err == SENTENCE


@pytest.mark.slow
def test_the_program_is_quiet_when_its_reader_goes():
    command = f"{sys.executable} -m bert_jax compile --help"
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_prediction_starts_without_the_packages_of_scores():
    """They would be a third of the time until the first prediction."""
    program = (
        "import sys, bert_jax.train.predict\n"
        "slow = ('sklearn', 'scipy.stats', 'scipy.optimize')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip().endswith("[]")
