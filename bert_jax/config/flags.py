"""Names of flags that are not those of their fields."""

from typing import Any


def flag(name: str) -> Any:
    """What gives a field's flag another name, or none at all, in an annotation.

    The annotation is written as a string, which the command line alone evaluates: the
    processes that read data do without the library that parses flags.
    """
    import tyro

    return tyro.conf.arg(name=name)
