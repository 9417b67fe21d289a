"""Refuses a flag that is given twice: of two values, tyro would take the last in silence."""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import tyro


class FlagError(ValueError):
    """A flag of the command line is wrong."""


def refuse_repeated(command: Any, args: Sequence[str]) -> None:
    """Returns if no flag is repeated, except those that collect their values.

    `--a-b` and `--a_b` are one flag, as are `--x` and `--no-x`.

    Args:
        command: dataclass of the command.
        args: its arguments, not yet parsed.

    Raises:
        FlagError: a flag is given twice; the message shows both.
    """
    collecting = set(_collecting_flags(command))
    seen: dict[str, str] = {}
    for place, arg in enumerate(args):
        if arg == "--":
            return
        if not arg.startswith("--"):
            continue
        name = _flag_of(arg)
        behind = args[place + 1 : place + 2]
        has_value = "=" not in arg and behind and not behind[0].startswith("--")
        shown = f"{arg} {behind[0]}" if has_value else arg
        if name in seen and name.rpartition(".")[2] not in collecting:
            raise FlagError(
                f"--{name} is given twice: `{seen[name]}` and `{shown}`. Give it once; a "
                "flag of several values takes them one after the other."
            )
        seen[name] = shown


def _flag_of(arg: str) -> str:
    """The name of a flag as `--help` has it, without dashes, value and `no-`."""
    name = arg.partition("=")[0].removeprefix("--").replace("_", "-")
    group, dot, field = name.rpartition(".")
    return f"{group}{dot}{field.removeprefix('no-')}"


def _collecting_flags(command: Any) -> Iterator[str]:
    """The names of all fields that tyro lets appear several times."""
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        if tyro.conf.UseAppendAction in getattr(hint, "__metadata__", ()):
            yield name.replace("_", "-")
        for part in _parts(hint):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from _collecting_flags(part)


def _parts(hint: Any) -> Iterator[Any]:
    """A type and all types that it is made of."""
    yield hint
    for part in typing.get_args(hint):
        yield from _parts(part)
