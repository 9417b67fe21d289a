"""Writes configs as JSON and reads them back; `from_json` exactly inverts `to_json`."""

import dataclasses
import difflib
import json
import pathlib
import types
import typing
from typing import Any, Literal, TypeVar

from bert_jax.config.address import address_of, map_paths
from bert_jax.config.checks import require_type

T = TypeVar("T")


def to_json(config: Any) -> str:
    """The whole config as indented JSON; paths become strings, NumPy's numbers Python's."""

    def plain(value: Any) -> Any:
        return value.item() if hasattr(value, "item") else str(value)

    return json.dumps(dataclasses.asdict(config), indent=2, default=plain) + "\n"


def to_values(config: Any) -> dict[str, Any]:
    """The whole config as values that JSON can hold."""
    values: dict[str, Any] = json.loads(to_json(config))
    return values


def with_absolute_paths(config: T) -> T:
    """The config with all its paths absolute, so that it means the same everywhere."""

    def absolute(path: pathlib.Path, _: str) -> pathlib.Path:
        return path if address_of(path) else path.absolute()

    return typing.cast(T, map_paths(config, absolute))


def from_json(cls: type[T], text: str) -> T:
    """Reads a config that `to_json` wrote.

    Raises:
        ValueError: a field is unknown, or a value has the wrong type or is refused.
    """
    return from_values(cls, json.loads(text))


def from_values(cls: type[T], values: dict[str, Any]) -> T:
    """As `from_json`, from JSON that has been parsed."""
    return _build(cls, values, cls.__name__)


def checked(config: T, kind: type[T], name: str) -> T:
    """The config, whose types are checked, at which Python does not look.

    Args:
        config: what was given.
        kind: what it must be.
        name: of the argument, for the message.

    Raises:
        ValueError: it is of another kind, or one of its values has the wrong type.
    """
    require_type(name, config, kind)
    return from_json(kind, to_json(config))


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object of fields, got {value!r}.")
        for name in value:
            if name not in hints:
                close = difflib.get_close_matches(name, hints, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"{where} has no field {name!r}.{hint}")
        fields = {
            name: _build(hints[name], item, f"{where}.{name}")
            for name, item in value.items()
        }
        return typing.cast(Any, kind)(**fields)
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        *others, last = (a for a in typing.get_args(kind) if a is not types.NoneType)
        for kind in others:
            try:
                return _build(kind, value, where)
            except ValueError:
                pass  # it may be one of the further types
        return _build(last, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}.")
        item = typing.get_args(kind)[0]
        return tuple(_build(item, x, f"{where}[{n}]") for n, x in enumerate(value))
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(
                f"{where}={value!r} is not one of {typing.get_args(kind)}."
            )
        return value
    if kind is pathlib.Path and isinstance(value, str):
        return pathlib.Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require_type(where, value, origin or kind)
    return value
