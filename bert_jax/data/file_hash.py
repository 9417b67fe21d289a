"""The hash by which files are known again."""

import hashlib
import pathlib


def file_sha256(path: pathlib.Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
