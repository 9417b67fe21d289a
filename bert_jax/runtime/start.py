"""Starts the program's own process: its streams, its signals and its environment.

This comes before all other imports and takes no time itself, so that a signal in the
first second is answered in one sentence too.
"""

import atexit
import contextlib
import errno
import gc
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""The value that `GLIBC_TUNABLES` gets, unless the user has set one."""

# A terminal that closes sends SIGHUP; schedulers warn with SIGUSR1, such as Slurm.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Each of them asks a command to stop."""

# How long the main thread may take to answer a second signal, and to end after the first
# one where no work would be lost. Native code, such as XLA's compiler, answers no signal.
_PATIENCE_SECS, _ENDING_SECS = 1.0, 8.0
# With Python's 700, its search for cycles is a tenth of the time in which libraries load.
_NEW_OBJECTS = 10_000
# Any of these says that a TPU is meant, even where its device files have other names.
_TPU_VARIABLES = (
    "TPU_NAME",
    "TPU_WORKER_ID",
    "TPU_WORKER_HOSTNAMES",
    "TPU_ACCELERATOR_TYPE",
    "TPU_LIBRARY_PATH",
    "TPU_PROCESS_ADDRESSES",
    "JAX_FORCE_TPU_INIT",
)
# The commands that keep what was done, and go on with it when they are started again.
_CONTINUING = ("quickstart", "prepare", "pretrain", "finetune", "sweep")
_has_begun = False
_command: str | None = None  # the one that runs
_was_interrupted = False
_num_repeats = 0
_has_work = False
_free_since = 0.0
_last_words: list[Callable[[], None]] = []
_terminals: tuple[int, ...] = ()


def begin() -> None:
    """Readies this process for a command. It may start the process again (`execv`)."""
    global _has_begun
    if _has_begun:
        return
    _has_begun = True
    gc.set_threshold(_NEW_OBJECTS)
    _open_streams()
    _catch_signals()
    _set_environment()
    _harden_streams()


def command_begins(name: str) -> None:
    """Says that a command runs from now on, so that a signal must unwind it."""
    global _command
    _command = name
    if _has_begun and name != "compile" and not _may_have_tpu():
        # An installed libtpu that finds no TPU prints errors for seconds. This makes
        # JAX believe that it is not installed.
        sys.modules.setdefault("libtpu", None)  # type: ignore[arg-type]


def protect(has_work: bool) -> None:
    """Says whether ending at once would lose work, from now on.

    Without such work, the first signal ends the process within 10 seconds, whatever it
    is doing. A second signal always does.
    """
    global _has_work, _free_since
    if _has_work and not has_work:
        _free_since = time.monotonic()
    _has_work = has_work


def last_words(speak: Callable[[], None]) -> None:
    """Calls a function before a signal ends the process, for a second at most."""
    _last_words.append(speak)


def takes(number: int) -> bool:
    """Whether a signal may be caught: `nohup`, for one, has SIGHUP ignored."""
    return signal.getsignal(number) != signal.SIG_IGN


def catch_again() -> None:
    """Takes the signals back after a library: libtpu, once loaded, ignores SIGHUP."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, handler)


def leave_terminal(number: int) -> None:
    """After SIGHUP the terminal is gone, and writing to it would be an error."""
    if number == signal.SIGHUP:
        _send_nowhere(*_terminals)


def was_interrupted() -> bool:
    """Whether a signal asked this process to end. Other errors then only follow from it."""
    return _was_interrupted


def interrupted() -> str:
    """What is said when a signal ends the process."""
    if _command in _CONTINUING:
        return "interrupted; start the same command again to continue"
    return "interrupted"


def silence() -> None:
    """Says that the last word has been said: what threads still print is lost."""
    if _has_begun:
        sys.stderr.flush()
        _send_nowhere(2)


def flush_output() -> None:
    """Writes what is buffered for standard output.

    Raises:
        OSError: it cannot be written; it is dropped, since Python would try again later.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        abandon_output()
        raise type(error)(error.errno, error.strerror, "standard output") from None


def abandon_output() -> None:
    """Sends what is still buffered for a broken standard output nowhere."""
    if sys.stdout is sys.__stdout__:
        _send_nowhere(1)


def _open_streams() -> None:
    """Opens the standard streams that the caller has closed, as `<&-` does.

    Otherwise the next file that is opened would take the place of the stream, and what
    libraries print would be written into it.
    """
    for number, (name, mode) in enumerate(
        (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    ):
        if getattr(sys, name) is None:
            _send_nowhere(number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _send_nowhere(*streams: int) -> None:
    """Makes streams read and write nothing, whether they are open or not."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in streams:
        os.dup2(nowhere, stream)
    if nowhere not in streams:
        os.close(nowhere)


class _Terminal(io.FileIO):
    """Writes to a terminal that may be gone before the shell has sent SIGHUP, or sends none."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        _send_nowhere(*_terminals)
        return memoryview(data).nbytes


def _harden_streams() -> None:
    """Input is text or an error. Neither text that the encoding of the output lacks nor a
    terminal that is gone ends a run.
    """
    # In its UTF-8 mode, Python would read bytes of another encoding as halves of characters.
    sys.stdin.reconfigure(errors="strict", newline=None)  # type: ignore[union-attr]
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        stream.reconfigure(errors="backslashreplace")
        if number in _terminals:
            terminal = io.TextIOWrapper(
                io.BufferedWriter(_Terminal(number, "w", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=True,
            )
            setattr(sys, name, terminal)
            setattr(sys, f"__{name}__", terminal)


def _catch_signals() -> None:
    global _terminals
    _terminals = tuple(stream for stream in (0, 1, 2) if os.isatty(stream))
    caught = [number for number in STOP_SIGNALS if takes(number)]
    for number in caught:
        signal.signal(number, _interrupt)
    sys.unraisablehook = _look_at_lost
    atexit.register(_exit_as_interrupted)  # the first one: it runs last
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # The thread takes no signal: one that it took just before `_set_environment` starts the
    # process again would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    threading.Thread(target=_watch, args=(read,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    leave_terminal(number)
    if _command is None or _was_interrupted or _imports(frame):
        _end()
    _was_interrupted = True
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: native code makes other errors of an interrupt."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _look_at_lost(lost: Any) -> None:
    """Interrupts again: Python drops what is raised in a callback, such as JAX's of `gc`."""
    global _num_repeats, _was_interrupted
    if lost.exc_type is KeyboardInterrupt:
        _num_repeats += 1
        _was_interrupted = False
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT)).start()
    # TensorStore's threads print this for each write that follows a failed one.
    elif str(lost.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(lost)


def _watch(signals: int) -> None:
    """Ends the process after a signal, even while XLA keeps the main thread."""
    count = 0
    while True:
        count += sum(number in STOP_SIGNALS for number in os.read(signals, 16))
        if count - _num_repeats >= 2:
            threading.Event().wait(_PATIENCE_SECS)
            _end()
        if count == 1:
            threading.Thread(target=_end_when_free, daemon=True).start()


def _end_when_free() -> None:
    """Ends the process when it has had time to end by itself, and has no work to lose."""
    began, pause = time.monotonic(), threading.Event()
    # What is left when the work has been saved should take no longer.
    while _has_work or time.monotonic() - max(began, _free_since) < _ENDING_SECS:
        pause.wait(_PATIENCE_SECS)
    _end()


def _exit_as_interrupted() -> None:
    """Lets no later error of Python's own end change the exit code."""
    if _was_interrupted:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)


def _end() -> None:
    for speak in _last_words:
        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        speaker.join(1.0)
    # The terminal may be gone, and the main thread too busy to have left it.
    with contextlib.suppress(OSError):
        os.write(2, f"bert-jax: {interrupted()}\n".encode())
    os._exit(130)


def _set_environment() -> None:
    """Starts this process again where its environment lacks what is read only then.

    `PYTHONUTF8`: files and pipes hold UTF-8, whatever the locale says. `GLIBC_TUNABLES`:
    glibc's allocator takes transparent huge pages. XLA on CPU allocates its buffers anew
    at every step, and faulting them in as pages of 4 KiB costs a fifth of a small model's
    step (benchmarks/LOG.md). What the user has set stays.
    """
    wanted = {"PYTHONUTF8": "1"}
    if sys.platform == "linux":
        wanted["GLIBC_TUNABLES"] = HUGE_PAGES
    missing = {name: x for name, x in wanted.items() if name not in os.environ}
    if missing:
        # A signal between here and the new process's `_catch_signals` waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        environment = {**os.environ, **missing}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _may_have_tpu() -> bool:
    import glob  # takes longer than all the rest of this file

    if any(name in os.environ for name in _TPU_VARIABLES):
        return True
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
