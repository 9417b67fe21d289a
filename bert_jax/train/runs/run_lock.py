"""One process at a time trains in a run directory.

The lock is the system's lock of the file .lock in the run directory, which ends with the
process. Not every shared file system passes it on to other machines. So the file also
names its holder, who touches it every few seconds: a machine that finds the name of
another one waits to see whether the file is touched again.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from bert_jax.data.atomic_file import remove_leftovers
from bert_jax.runtime import process
from bert_jax.runtime.agreement import on_first_host
from bert_jax.runtime.explanations import naming

_BEAT_SECS = 10.0
# After so long without a sign, a holder on another machine is taken for dead.
_STALE_SECS = 60.0
# So long may the children of a killed process hold its lock.
_CHILDREN_SECS = 10.0


@contextlib.contextmanager
def only_trainer(run: pathlib.Path) -> Iterator["RunLock | None"]:
    """Holds the lock of a run directory on the first host, for all hosts.

    What a killed process has left half-written there is deleted.

    Raises, on all hosts:
        ValueError: another process holds it; its host and its number are named.
    """
    with contextlib.ExitStack() as held:
        lock = RunLock(run)

        def take() -> None:
            held.enter_context(lock)
            for folder in (run, run / "tokenizer"):
                remove_leftovers(folder)

        on_first_host(f"lock of {run}", take)
        yield lock if process.is_first() else None


def vanished(run: pathlib.Path) -> str:
    """What is said when a run directory is no longer there."""
    return (
        f"{run} was moved or deleted while it was being trained, so nothing can be saved in "
        "it. Training stops."
    )


def this_process() -> dict[str, Any]:
    """What a lock says of its holder."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "id": uuid.uuid4().hex,
    }


def holder_in(content: bytes) -> dict[str, Any] | None:
    """Who the content of a lock names; `None` if nobody."""
    try:
        holder = json.loads(content)
        return {name: holder[name] for name in ("host", "pid", "since", "id")}
    except (ValueError, LookupError, TypeError):
        return None


def has_ended(holder: dict[str, Any] | None) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    if holder is None or holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except OSError as error:
        return error.errno == errno.ESRCH  # else the process may not be asked
    return False


def held_by(run: object, holder: dict[str, Any] | None) -> ValueError:
    """The error for a run that another process trains."""
    who = (
        "another process"
        if holder is None
        else f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    )
    return ValueError(
        f"{run} is being trained by {who}. Wait for it or stop it, or choose another "
        "--output."
    )


def say_waiting(run: object, holder: dict[str, Any], secs: float) -> None:
    """Says why nothing happens while a lock may have been left behind."""
    print(
        f"note: {run} was last trained by process {holder['pid']} on {holder['host']}, "
        f"which left its lock behind or still runs; waiting up to {secs:.0f} s for a sign "
        "of it",
        flush=True,
    )


class RunLock:
    """Holds the lock of a run directory, which must exist, while its block runs."""

    def __init__(self, run: pathlib.Path) -> None:
        self._run = run
        self._path = run / ".lock"
        self._me = this_process()
        self._lost: str | None = None
        self._ended = threading.Event()

    def __enter__(self) -> "RunLock":
        """Takes the lock.

        Raises:
            ValueError: another process holds it; its host and its number are named.
        """
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with naming(self._path):
                self._take()
        except BaseException:
            os.close(self._file)
            raise
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._beats.join()
        if self._lost is None:
            os.ftruncate(self._file, 0)
        os.close(self._file)

    def check(self) -> None:
        """Raises OSError if the directory vanished, or another process took the lock."""
        if self._lost is not None:
            raise OSError(self._lost)

    def _take(self) -> None:
        is_locked = self._lock()
        holder = self._holder()
        # On this machine the system's lock says all: the holder has ended.
        if holder is not None and not (
            is_locked and holder["host"] == self._me["host"]
        ):
            self._wait_until_stale(holder)
        os.ftruncate(
            self._file, os.pwrite(self._file, json.dumps(self._me).encode(), 0)
        )
        os.fsync(self._file)

    def _lock(self) -> bool:
        """Takes the system's lock; false where the file system has none."""
        deadline = time.monotonic() + _CHILDREN_SECS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                holder = self._holder()
                if not has_ended(holder) or time.monotonic() > deadline:
                    raise held_by(self._run, holder) from None
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                return False

    def _wait_until_stale(self, holder: dict[str, Any]) -> None:
        seen = os.fstat(self._file).st_mtime_ns
        if not has_ended(holder) and self._age() < _STALE_SECS:
            say_waiting(self._run, holder, _STALE_SECS)
        while not has_ended(holder) and self._age() < _STALE_SECS:
            time.sleep(min(1.0, _BEAT_SECS))
            # Opened anew, NFS asks the server how old the file is.
            os.close(os.open(self._path, os.O_RDONLY))
            if os.stat(self._path).st_mtime_ns != seen or self._holder() != holder:
                raise held_by(self._run, self._holder() or holder)

    def _age(self) -> float:
        """Seconds since the file was touched, by the clock of the file system."""
        probe = self._path.with_name(f".lock-{self._me['id']}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - os.fstat(self._file).st_mtime

    def _holder(self) -> dict[str, Any] | None:
        """Who the file names; `None` if nobody."""
        return holder_in(os.pread(self._file, 4096, 0))

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECS):
            try:
                there, own = os.stat(self._path), os.fstat(self._file)
                if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
                    raise FileNotFoundError
            except FileNotFoundError:
                self._lost = vanished(self._run)
                return
            except OSError:
                continue  # storage that does not answer is no proof
            holder = self._holder()
            if holder is None:
                continue  # it is being written
            if holder != self._me:
                self._lost = (
                    f"{self._run} was taken over by process {holder['pid']} on "
                    f"{holder['host']}, since this process gave no sign "
                    f"for more than {_STALE_SECS:.0f} s. Training stops here."
                )
                return
            os.utime(self._file)
