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
SHORT = (
    "bert-jax: interrupted\n"  # of a command that has nothing to go on with, or of none
)
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


def waiting(text: str, word: str) -> subprocess.Popen[str]:
    """A process that runs a script, and has printed `word` as its first line."""
    child = subprocess.Popen(
        [sys.executable, "-c", text],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    assert child.stdout.readline() == f"{word}\n"
    return child


@pytest.fixture(autouse=True, scope="module")
def default_hangup():
    """libtpu, which other tests load into this process, ignores SIGHUP for all children."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


STOPS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"]


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_before_the_command_runs_is_one_sentence(number):
    done = script(f"{BEGIN}\nos.kill(os.getpid(), signal.{number})\ntime.sleep(20)")
    assert (done.returncode, done.stderr) == (130, SHORT)


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
    assert (done.returncode, done.stderr) == (130, SHORT)


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
    with waiting(text, "ready") as child:
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, SHORT)


# A main thread that answers no signal, as while XLA compiles.
STUCK = """
import ctypes
start._ENDING_SECS, start._PATIENCE_SECS = 0.2, 0.1
start.command_begins("pretrain")
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
signal.signal(signal.SIGUSR1, lambda number, frame: None)  # as a loop that saves first
try:
    print("ready", flush=True)
    lock(mutex)
except KeyboardInterrupt:
    lock(mutex)  # the signal came before the lock was entered
"""


def stuck(before: str = "") -> "subprocess.Popen[str]":
    """A process whose main thread is stuck; it has said so."""
    return waiting(BEGIN + before + STUCK, "ready")


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_ends_a_busy_process_that_has_no_work_to_lose(number):
    child = stuck("start.last_words(lambda: os.write(2, b'told; '))\n")
    child.send_signal(getattr(signal, number))
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (130, f"told; {SENTENCE}")


def test_the_first_signal_ends_no_process_before_its_work_is_saved():
    saving = "threading.Timer(1.5, start.protect, (False,)).start()"
    child = stuck(f"import threading\nstart.protect(True)\n{saving}\n")
    child.send_signal(signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.7)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (130, SENTENCE)


def test_last_words_that_take_too_long_are_cut():
    child = stuck("start.last_words(lambda: time.sleep(60))\n")
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=20)
    assert child.returncode == 130


# Short naps: one that begins just after the signal, before Python looks, is not cut short.
SAVING = """
start.command_begins("evaluate")
try:
    print("ready", flush=True)
    for _ in range(400):
        time.sleep(0.05)
except KeyboardInterrupt:
    print("saving", flush=True)
    os._exit(7)
"""


# The terminal goes, and no signal tells: the shell is slow, or has disowned the job.
UNTOLD = """
start.command_begins("pretrain")
print("ready", flush=True)
while os.isatty(1):
    print("step", file=sys.stderr)
print("nobody reads this", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("text", "number", "code"),
    [(SAVING, signal.SIGHUP, 7), (STUCK, signal.SIGHUP, 130), (UNTOLD, 0, 0)],
    ids=["saving", "stuck", "untold"],
)
def test_a_terminal_that_is_gone_is_no_error(text, number, code):
    leader, follower = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", BEGIN + text],
        env=environment(),
        **dict.fromkeys(("stdin", "stdout", "stderr"), follower),
    )
    os.close(follower)
    # The rest of the word may still be on its way.
    assert os.read(leader, 1) == b"r"
    os.close(leader)
    child.send_signal(number)
    try:
        assert child.wait(20) == code
    finally:
        child.kill()
        child.wait()


def test_a_closed_terminal_ends_a_process_that_has_loaded_libtpu(libtpu):
    text = f"""{BEGIN}
from bert_jax.topology.devices import devices_of, parse_topology
start.command_begins("compile")
devices_of(parse_topology("v5e:2x2"))
try:
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(20)
except KeyboardInterrupt:
    print("unwound")
"""
    done = script(text)
    assert (done.returncode, done.stdout) == (130, "unwound\n")


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
    assert (done.returncode, done.stderr) == (130, SHORT)


def test_an_ignored_signal_stays_ignored():
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    request = "from bert_jax.train.stop_request import StopRequest"
    done = script(
        f"{ignore}\n{BEGIN}\n{request}\nos.kill(os.getpid(), signal.SIGHUP)\n"
        "with StopRequest() as stop:\n    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(stop.requested)"
    )
    assert (done.returncode, done.stdout) == (0, "False\n")


def test_a_signal_while_a_line_is_written_asks_to_stop():
    """Python refuses to write to a stream while it writes to it, as when a pipe is full."""
    done = script(
        f"""{BEGIN}
import io
from bert_jax.train.stop_request import StopRequest

class Slow(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        os.kill(os.getpid(), signal.SIGTERM)
        return os.write(1, data)

stream = io.TextIOWrapper(io.BufferedWriter(Slow()))
with StopRequest() as stop:
    sys.stdout = stream
    print("a line", flush=True)
    sys.stdout = sys.__stdout__
    print(stop.requested)
"""
    )
    assert (done.returncode, done.stdout) == (0, "a line\nTrue\n")
    assert "SIGTERM: stopping after this step" in done.stderr


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


@pytest.mark.parametrize(
    ("given", "printed"),
    [(b"caf\xc3\xa9\r\nx", "['caf\xe9', 'x']\n"), (b"caf\xe9\n", "not UTF-8\n")],
)
def test_standard_input_is_lines_of_utf8_or_refused(given, printed):
    text = f"""{BEGIN}
from bert_jax.commands.text_input import standard_input
try:
    print([line for lines in standard_input() for line in lines])
except ValueError as error:
    print("not UTF-8" * ("Standard input is not UTF-8" in str(error)))
"""
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment(),
        input=given,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout.decode() == printed


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


@pytest.mark.slow(ci=False)
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
        assert err in (SHORT, SENTENCE)


COMPILING = f"""{BEGIN}
import jax, jax.numpy as jnp
start._ENDING_SECS = 1.0
def long(x):
    for n in range(3_000):
        x = jnp.sin(x) + n * jnp.cos(x[::-1])
    return x
lowered = jax.jit(jax.grad(lambda x: long(x).sum())).lower(jnp.ones(64))
start.command_begins("pretrain")
print("compiling", flush=True)
try:
    lowered.compile()
    print("compiled", flush=True)
except KeyboardInterrupt:  # the signal came before XLA's own code
    print("bert-jax:", start.interrupted(), file=sys.stderr)
"""


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_signals_while_xla_compiles_end_the_process_without_a_crash(number, times):
    with waiting(COMPILING, "compiling") as child:
        for _ in range(times):
            time.sleep(0.3)
            child.send_signal(number)
        out, err = child.communicate(timeout=200)
    assert (child.returncode, out, err) == (130, "", SENTENCE)


@pytest.mark.slow(ci=False)
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


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        # They would be a third of the time until the first prediction.
        ("inference.predict", ("sklearn", "scipy.stats", "scipy.optimize")),
        # tensorboardX would load these: half of the time until a training begins.
        ("pretrain", ("torch", "boto3", "google.cloud.storage")),
    ],
)
def test_what_takes_long_and_is_not_needed_is_not_loaded(module, slow):
    program = (
        f"import sys, bert_jax.train.{module}\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip().endswith("[]")
