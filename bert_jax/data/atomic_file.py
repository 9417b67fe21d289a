"""Files that appear under their name only when they are whole."""

import os
import pathlib


def write_bytes_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file; a reader sees the old content or all of the new, never a part."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
