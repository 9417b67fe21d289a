"""Whether processes that a test started, or that those started, still run."""

import pathlib


def is_running(process: int) -> bool:
    """By its number; one that has ended and waits to be collected does not run."""
    try:
        # Behind the name in brackets; nobody may be there to collect a dead orphan.
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except (
        FileNotFoundError,
        ProcessLookupError,
    ):  # gone before, or while, it was read
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
