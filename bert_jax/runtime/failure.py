"""When one process of a job fails, the others hear why, and end as well.

Without this, they would wait in a collective for one that is gone.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from typing import NamedTuple

from jax.errors import JaxRuntimeError

from bert_jax.runtime import coordination, process

_KEY = "failure"
_LOOK_EVERY_SECS = 0.5
_GRACE_SECS = 5.0  # for a process to end with an error of its own
_NOTICED_SECS = 15.0  # how long process 0, which keeps the words, stays for the others


class EndOfAllError(Exception):
    """Raised by all processes of a job at the same place: none waits for another."""


class Failure(NamedTuple):
    """Of the process that failed first."""

    number: int
    message: str
    exit_code: int

    def __str__(self) -> str:
        return f"process {self.number} failed: {self.message}"


class Watch:
    """Ends this process soon after another one has failed."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        # Before JAX leaves the job, and with it the words of the others.
        atexit.register(self.end)

    def end(self) -> None:
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_SECS):
            found = failed()
            if found is not None and found.number != process.this().number:
                if not self._over.wait(_GRACE_SECS):
                    leave_with(found)
                return


def failed() -> Failure | None:
    """The failure of the job, if a process has told one."""
    try:
        text = coordination.find(_KEY)
    except JaxRuntimeError:
        return None  # process 0 is gone: JAX itself ends this one
    return None if text is None else Failure(*json.loads(text))


def failed_soon() -> Failure | None:
    """As `failed`, with a moment for the words of one whose end was noticed first."""
    me, deadline = process.this(), time.monotonic() + _GRACE_SECS
    while time.monotonic() < deadline:
        found = failed()
        if found is not None:
            return None if found.number == me.number else found
        time.sleep(_LOOK_EVERY_SECS / 5)
    return None


def tell(error: BaseException) -> None:
    """Tells the others, and makes this process's exit wait for none of them."""
    exit_code = 130 if isinstance(error, KeyboardInterrupt) else 1
    message = str(error) or type(error).__name__
    failure = Failure(process.this().number, message, exit_code)
    with contextlib.suppress(JaxRuntimeError):
        coordination.put(_KEY, json.dumps(failure))
    atexit.register(_go, exit_code)


def leave_with(failure: Failure) -> None:
    """Ends this process at once, for the reason of another one."""
    print(f"bert-jax: {process.this()}: {failure}", file=sys.stderr, flush=True)
    _go(failure.exit_code)


def _go(exit_code: int) -> None:
    """Ends this process without the farewell for which JAX would wait."""
    me = process.this()
    try:
        coordination.put(f"gone/{me.number}", "gone")
        deadline = time.monotonic() + _NOTICED_SECS
        while me.number == 0 and time.monotonic() < deadline:
            if len(coordination.find_all("gone")) == me.count:
                break
            time.sleep(_LOOK_EVERY_SECS / 5)
    except JaxRuntimeError:
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
