"""Starts the program `bert-jax` by `fork`, which saves the seconds in which it is loaded.

The process that forks has loaded the program, has touched no device and has one thread, so
the new process is where a fresh one would be after its imports.
"""

import atexit
import contextlib
import gc
import json
import mmap
import os
import pathlib
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_CHANGES = frozenset(
    ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile")
)
_WRITES = os.O_WRONLY | os.O_RDWR


def load() -> None:
    """Loads all that the commands load, and touches no device.

    Raises:
        RuntimeError: this process cannot be forked safely.
    """
    import jax
    import tensorflow_datasets as tfds
    from jax._src import xla_bridge

    import bert_jax.__main__
    import bert_jax.cli
    import bert_jax.commands.settled
    import bert_jax.data.prepared.prepare
    import bert_jax.exchange.families.registry
    import bert_jax.train.finetune
    import bert_jax.train.planned_steps
    import bert_jax.train.pretrain  # noqa: F401

    for name in ("core", "features", "folder_dataset"):
        getattr(tfds, name)  # loaded when it is first asked for
    jax.config.update("jax_platforms", "cpu")
    if xla_bridge.backends_are_initialized():
        raise RuntimeError("JAX has touched a device, so processes must not be forked.")
    gc.collect()
    gc.freeze()


class Changes:
    """Counts what a forked process changes in a folder, and may kill it before one.

    A change is a file opened for writing, renamed or deleted, or a folder made or deleted,
    by Python. What TensorStore writes is not counted.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = str(folder)
        self._count = mmap.mmap(-1, 8)  # shared with the forked process
        self.last: int | None = None
        """The number of the change before which the process is killed."""

    @property
    def count(self) -> int:
        """Changes that were made or begun."""
        (count,) = struct.unpack("q", self._count[:8])
        return count

    def watch(self) -> None:
        """Counts from now on, in the process that calls it."""
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            is_change = isinstance(flags, int) and flags & _WRITES
        else:
            is_change = event in _CHANGES
            path = args[0] if is_change else None
        # `shutil.rmtree` names files relative to an open folder.
        name = str(path)
        if not is_change or ("/" in name and not name.startswith(self._folder)):
            return
        count = self.count + 1
        self._count[:8] = struct.pack("q", count)
        if count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


class Member:
    """A process that runs one command of `bert-jax`."""

    def __init__(
        self,
        command: Sequence[object],
        log: pathlib.Path,
        *,
        devices: int = 1,
        changes: Changes | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Starts it, in a session of its own.

        Args:
            command: the command and its flags.
            log: file that gets what it prints.
            devices: number of CPU devices.
            changes: counts what it changes.
            environment: variables beside those of this process.
        """
        _check_threads()
        self.pid = os.fork()
        self.code: int | None = None
        """The exit code when it has ended; -n after signal n."""
        if self.pid:
            return
        with _ending():
            _become_fresh(log, environment or {})
            import jax

            jax.config.update("jax_num_cpu_devices", devices)
            import bert_jax.__main__ as program

            # What worker processes of `prepare` load again.
            sys.modules["__main__"] = program
            sys.argv = ["bert-jax", *map(str, command)]
            if changes is not None:
                changes.watch()
            program.main()

    def has_ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def kill(self) -> None:
        """Kills it and its worker processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while not self.has_ended():
            time.sleep(0.001)


def in_fork(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own, as JSON can hold it.

    Raises:
        RuntimeError: the function raised, which standard error shows.
    """
    _check_threads()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        with _ending():
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                json.dump(function(*args), pipe)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if not said:
        raise RuntimeError(f"{function.__name__} failed; its error is above.")
    return json.loads(said)


def _check_threads() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"A process with {threads} threads must not be forked.")


def _become_fresh(log: pathlib.Path, environment: dict[str, str]) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # With these, the program does not start itself again.
    os.environ |= {"PYTHONUTF8": "1", "GLIBC_TUNABLES": "", **environment}


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Ends the process with its block as Python does: threads, exit functions, exit code."""
    code: int = 1
    try:
        try:
            yield
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
