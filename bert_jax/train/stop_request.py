"""How SIGINT and SIGTERM stop a run: after a step, or between two steps at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from bert_jax.runtime import process
from bert_jax.runtime.failure import EndOfAllError


class InterruptedRunError(EndOfAllError):
    """A signal ended the run after a checkpoint. The same command continues it."""


class StoppedError(Exception):
    """A signal came while the loop was between two steps."""


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request. A second one acts at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; elsewhere the default stays.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a request raises `StoppedError` in a process that is alone.

        The processes of a job must agree on the step at which they stop.
        """
        self._raises = process.this().count == 1
        try:
            if self._raises and self.requested:
                raise StoppedError
            yield
        finally:
            self._raises = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        what = "now" if self._raises else "after this step"
        print(
            f"{signal.Signals(number).name}: stopping {what}; a second signal stops at "
            "once",
            flush=True,
        )
        if self._raises:
            raise StoppedError
