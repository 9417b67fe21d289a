"""Libraries that only some formats need; each belongs to an extra of the package."""

import importlib
from typing import Any


def library(name: str, extra: str, what: str) -> Any:
    """Imports a library that an installation without extras does not have.

    Args:
        name: module to import, such as "tensorflow".
        extra: the extra of bert_jax that installs it.
        what: what needs it, in the plural, for the message.

    Raises:
        ValueError: the library is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(
            f"{what} need {name}, which is not installed: "
            f"pip install 'bert_jax[{extra}]'."
        ) from error
