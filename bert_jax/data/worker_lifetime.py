"""Makes worker processes end when their parent ends or is killed, and not before."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks a command to stop; a run saves a checkpoint first, and needs its workers."""


def end_with_the_parent() -> None:
    """Ends this worker process as soon as its parent has ended; call it at the start."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def kept_from(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Processes that are started meanwhile never get these signals.

    A terminal and many schedulers send them to every process of a group.
    What they mean for the workers is for the parent to say.
    """
    resource_tracker.ensure_running()  # Starting it later would unblock the signals.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def terminate_workers() -> None:
    """Ends all worker processes of this process."""
    for child in multiprocessing.active_children():
        child.terminate()
