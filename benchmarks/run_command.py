"""`bert-jax` as a user starts it, read while it runs and ended when enough is seen."""

import contextlib
import os
import pathlib
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def bert_jax_lines(
    arguments: Sequence[str], seconds_left: Callable[[], float]
) -> Iterator[Iterator[str]]:
    """Lines of what the command prints, as they come; the end of the block ends it.

    They stop when the command ends, or when the time does.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "bert_jax.cli", *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield _lines(process, seconds_left)
        finally:
            # At once: nobody wants its checkpoint.
            process.kill()


def _lines(
    process: "subprocess.Popen[bytes]", seconds_left: Callable[[], float]
) -> Iterator[str]:
    assert process.stdout is not None
    unread = b""
    while (left := seconds_left()) > 0:
        if not select.select([process.stdout], [], [], min(left, 1.0))[0]:
            continue
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            return
        *lines, unread = (unread + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
