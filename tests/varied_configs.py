"""Configs in which one field has another value than its default, by its type."""

import dataclasses
import itertools
import pathlib
import types
import typing
from collections.abc import Iterator
from typing import Any

from bert_jax.config import ClusterConfig, DataConfig, ModelConfig, TaskConfig

# Fields that some settings of a class need beside them, where one is not enough.
BESIDE: dict[type, dict[str, Any]] = {
    ClusterConfig: {
        "kind": "flags",
        "coordinator": "host:1",
        "num_processes": 2,
        "process_id": 0,
    },
    DataConfig: {"layout": "buckets", "sequence_length": 16},
    ModelConfig: {
        "positions": "rotary",
        "local_window": 8,
        "global_every": 2,
        "next_sentence": False,
    },
    TaskConfig: {"text": ("1",), "label": "2"},
}


def others(kind: Any, default: Any = None) -> Iterator[Any]:
    """Values of a type that differ from `default`; not every class accepts each."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        default = kind() if default is None else default
        for field in dataclasses.fields(kind):
            yield from varied(default, field.name)
        return
    if origin in (types.UnionType, typing.Union):
        found = (x for part in args for x in others(part, default))
    elif kind is types.NoneType:
        found = iter([None])
    elif origin is tuple and ... in args:
        found = ((item,) for item in others(args[0]))
    elif origin is tuple:  # of a fixed number of values, the same ones for each
        found = iter([tuple(itertools.islice(others(args[0]), len(args)))])
    elif origin is typing.Literal:
        found = iter(args)
    else:
        found = iter(
            {
                int: lambda: [8, 16, 1, 2 * (default or 1)],
                float: lambda: [0.25, 1.5, (default or 1.0) / 2],
                bool: lambda: [False, True],
                str: lambda: ["other", ";", "latin-1"],
                pathlib.Path: lambda: [pathlib.Path("elsewhere")],
            }[kind]()
        )
    yield from (value for value in found if value != default)


def varied(default: Any, name: str) -> list[Any]:
    """Settings that differ from `default` in a field, for every choice that it has.

    They differ in another field too where the value needs that. A value that is refused
    with every companion is left out.
    """
    owner = type(default)
    hints = typing.get_type_hints(owner)

    def with_value(value: Any) -> Any:
        for beside in ({}, BESIDE.get(owner, {})):
            try:
                return dataclasses.replace(default, **{**beside, name: value})
            except ValueError:
                pass
        for other in hints:
            if other == name or dataclasses.is_dataclass(hints[other]):
                continue
            for companion in others(hints[other], getattr(default, other)):
                try:
                    return dataclasses.replace(
                        default, **{name: value, other: companion}
                    )
                except ValueError:
                    pass
        return None

    made = map(with_value, others(hints[name], getattr(default, name)))
    return [each for each in made if each is not None]
