"""One writer at a time for a directory."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a directory, which the system releases when the process ends.

    Raises:
        ValueError: another process holds it.
    """
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{directory} is being written by another process; wait for it, or "
                "stop it and start this command again."
            ) from None
        yield
