"""Where this machine keeps what can be made again."""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """The folder of that name in the user's cache; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base, "bert_jax", name).absolute()
