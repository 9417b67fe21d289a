"""How signals stop a run: after a step, or between two steps at once."""

import contextlib
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from bert_jax.runtime import process, start
from bert_jax.runtime.agreement import any_host
from bert_jax.runtime.failure import EndOfAllError

_LOOK_SECS = 1.0


class InterruptedRunError(EndOfAllError):
    """A signal ended the run after a checkpoint. The same command continues it."""


class StoppedError(Exception):
    """A signal came while the loop was between two steps."""


class StopRequest:
    """Turns the first of `STOP_SIGNALS`, or a file, into a request.

    A second signal acts at once.
    """

    def __init__(self, file: pathlib.Path | None = None) -> None:
        """Requests nothing yet.

        Args:
            file: asks to stop when it appears, or is written again, from now on.
        """
        self._requested = False
        self._file, self._looked = file, time.monotonic()
        self._first_seen = _written(file)
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; elsewhere the default stays.
        if threading.current_thread() is threading.main_thread():
            for number in filter(start.takes, start.STOP_SIGNALS):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop. The file is looked for once a second."""
        now = time.monotonic()
        if self._file and not self._requested and now - self._looked >= _LOOK_SECS:
            self._looked = now
            found = _written(self._file)
            if found is not None and found != self._first_seen:
                self._requested = True
                print(f"{self._file} is there: stopping after this step", flush=True)
        return self._requested

    def of_any_host(self, step: int, every: int) -> bool:
        """Whether any host of the job was asked to stop. All hosts get the same answer.

        Args:
            step: number of updates so far.
            every: in a job of several processes, they ask each other at multiples of this
                step.
        """
        if process.this().count == 1:
            return self.requested
        return step % every == 0 and any_host(self.requested)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a request raises `StoppedError` in a process that is alone.

        The processes of a job must agree on the step at which they stop.
        """
        self._raises = process.this().count == 1
        try:
            if self._raises and self._requested:
                raise StoppedError
            yield
        finally:
            self._raises = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        start.leave_terminal(number)
        what = "now" if self._raises else "after this step"
        name = signal.Signals(number).name
        said = f"{name}: stopping {what}; a second signal stops at once"
        # What reads the output may have gone.
        with contextlib.suppress(OSError):
            try:
                print(said, flush=True)
            except RuntimeError:  # the signal came while a line was being written
                os.write(2, f"{said}\n".encode())
        if self._raises:
            raise StoppedError


def _written(file: pathlib.Path | None) -> int | None:
    """When a file was written; `None` where there is none."""
    try:
        return None if file is None else file.stat().st_mtime_ns
    except OSError:
        return None
