"""Names of flags that are not those of their fields, and their boxes in --help."""

from typing import Any


def flag(name: str) -> Any:
    """What gives a field's flag another name, or none at all, in an annotation.

    The annotation is written as a string, which the command line alone evaluates: the
    processes that read data do without the library that parses flags.
    """
    import tyro

    return tyro.conf.arg(name=name)


def box(title: str) -> tuple[Any, ...]:
    """What gives the fields of a settings class flags without a prefix and a box of their
    own in --help, in an annotation: "Annotated[Settings, *box('title')]"."""
    import tyro

    return (tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=title))
