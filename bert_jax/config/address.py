"""Paths in settings, and addresses in object stores (gs://, s3://) among them."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from bert_jax.config.checks import require_type


def path_of(name: str, given: str | os.PathLike[str]) -> pathlib.Path:
    """An argument of that name as a path; one of another type is a ValueError."""
    require_type(name, given, str, os.PathLike)
    return pathlib.Path(given)


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address that a path stands for; `None`: it is a path of this machine.

    A `pathlib.Path` keeps one of the two slashes: `Path("gs://b/run")` is "gs:/b/run".
    """
    found = re.fullmatch(r"([a-z][a-z0-9]+):/+(.+?)/*", os.fspath(path))
    return f"{found[1]}://{found[2]}" if found else None


def map_paths(
    settings: Any, change: Callable[[pathlib.Path, str], pathlib.Path], name: str = ""
) -> Any:
    """The settings with other paths; what holds no changed path stays the same object.

    Args:
        settings: a dataclass, with paths in its fields, in tuples and in further
            dataclasses.
        change: gives the new path for an old one and the name of the field that holds it.
        name: of the field that holds `settings`.
    """
    if isinstance(settings, pathlib.Path):
        return change(settings, name)
    if isinstance(settings, tuple):
        items = tuple(map_paths(item, change, name) for item in settings)
        return settings if items == settings else items
    if not dataclasses.is_dataclass(settings):
        return settings
    changed = {
        field.name: map_paths(getattr(settings, field.name), change, field.name)
        for field in dataclasses.fields(settings)
    }
    if all(getattr(settings, name) is x for name, x in changed.items()):
        return settings
    return dataclasses.replace(settings, **changed)  # type: ignore[type-var]
