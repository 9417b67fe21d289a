"""Addresses in object stores, gs://BUCKET/FOLDER and s3://BUCKET/FOLDER, among paths."""

import os
import re


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address that a path stands for; `None`: it is a path of this machine.

    A `pathlib.Path` keeps one of the two slashes: `Path("gs://b/run")` is "gs:/b/run".
    """
    found = re.fullmatch(r"([a-z][a-z0-9]+):/+(.+?)/*", os.fspath(path))
    return f"{found[1]}://{found[2]}" if found else None
