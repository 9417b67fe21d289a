"""Flags that must be known before the other flags can be read."""

from collections.abc import Sequence


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The value of a flag in unparsed arguments."""
    value = None
    for place, arg in enumerate(args):
        if arg == flag and place + 1 < len(args):
            value = args[place + 1]
        elif arg.startswith(f"{flag}="):
            value = arg.partition("=")[2]
    return value


def is_given(flag: str, args: Sequence[str]) -> bool:
    """Whether a flag is among unparsed arguments, with dashes or underscores."""
    return any(arg.partition("=")[0].replace("_", "-") == flag for arg in args)
