"""Checks of settings. Each error names the field, its value and what would be right."""

import dataclasses
import functools
import math
import numbers
import typing

MAX_WORKERS = 1_024
"""Most worker processes or threads: no machine has as many cores."""

# XLA may take a float32 below the smallest normal one for 0.
_SMALLEST, _LARGEST = 2.0**-126, (2.0 - 2.0**-23) * 2.0**127


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_type(name: str, given: object, *kinds: type) -> None:
    """Requires that an argument or a field is of one of these types; a bool is no int."""
    fits = isinstance(given, kinds) and (bool in kinds or not isinstance(given, bool))
    said = repr(given)
    require(
        fits,
        f"{name}={said if len(said) <= 60 else f'{said[:60]}...'} is a "
        f"{type(given).__name__}; expected {' or '.join(x.__name__ for x in kinds)}.",
    )


def require_fitting(owner: object) -> None:
    """Requires that numbers are some and fit, and that fields of some words have one."""
    for name, part in _parts(type(owner)).items():  # type: ignore[arg-type]
        require_type(f"{type(owner).__name__}.{name}", getattr(owner, name), part)
    for name, kinds in _numeric(type(owner)).items():  # type: ignore[arg-type]
        value = getattr(owner, name)
        number = numbers.Real if float in kinds else numbers.Integral
        require(
            isinstance(value, (number, *kinds)),
            f"{type(owner).__name__}.{name}={value!r} is a {type(value).__name__}; "
            f"expected {kinds[0].__name__}.",
        )
    require_fitting_numbers(owner)
    for name, choices in _choices(type(owner)).items():  # type: ignore[arg-type]
        value = getattr(owner, name)
        require(
            value in choices,
            f"{type(owner).__name__}.{name}={value!r} is not one of "
            f"{', '.join(map(repr, choices))}.",
        )


@functools.cache
def _parts(kind: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses themselves."""
    hints = typing.get_type_hints(kind).items()
    return {
        n: x for n, x in hints if isinstance(x, type) and dataclasses.is_dataclass(x)
    }


@functools.cache
def _numeric(kind: type) -> dict[str, tuple[type, ...]]:
    """The fields of a dataclass that are a number, or that or `None`, with their types."""
    hints = {
        name: typing.get_args(hint) or (hint,)
        for name, hint in typing.get_type_hints(kind).items()
    }
    return {
        name: kinds
        for name, kinds in hints.items()
        if {*kinds} <= {int, float, type(None)}
    }


@functools.cache
def _choices(kind: type) -> dict[str, tuple[object, ...]]:
    """The fields of a dataclass that are a `Literal`, or that or `None`."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        hints = (
            typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
        )
        words = [x for x in hints if typing.get_origin(x) is typing.Literal]
        if words:
            none = (None,) if len(hints) > 1 else ()
            found[name] = (*typing.get_args(words[0]), *none)
    return found


def require_rate(owner: object, *names: str) -> None:
    """Requires that each named field is a probability in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        require(
            0.0 <= value < 1.0,
            f"{type(owner).__name__}.{name}={value} is not in [0, 1).",
        )


def require_seed(owner: object, name: str = "seed") -> None:
    """Requires that a seed fits 32 bits."""
    seed = getattr(owner, name)
    require(
        0 <= seed < 2**32, f"{type(owner).__name__}.{name}={seed} is not in [0, 2**32)."
    )


def require_positive(owner: object, *names: str) -> None:
    """Requires that each named field is greater than 0 and finite, or `None`."""
    for name in names:
        if (value := getattr(owner, name)) is None:
            continue
        require(
            value > 0,
            f"{type(owner).__name__}.{name}={value} must be greater than 0.",
        )
        require(
            value < math.inf,
            f"{type(owner).__name__}.{name}={value} must be a finite number.",
        )


def require_not_negative(owner: object, *names: str) -> None:
    """Requires that each named field is 0 or more, or `None`."""
    for name in names:
        value = getattr(owner, name)
        require(
            value is None or value >= 0,
            f"{type(owner).__name__}.{name}={value} is negative; expected 0 or more.",
        )


def require_used(owner: object, is_used: bool, why: str, *names: str) -> None:
    """Requires that each named field has its default, unless something uses it.

    Args:
        owner: a dataclass.
        is_used: whether the fields have an effect, so that they may have any value.
        why: why they have none, and what to do about it, in words.
        names: of fields with plain defaults.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(owner)}  # type: ignore[arg-type]
    for name in names:
        value = getattr(owner, name)
        require(
            is_used or value == defaults[name],
            f"{type(owner).__name__}.{name}={value!r} would be ignored: {why}",
        )


def require_weights(name: str, weights: tuple[float, ...], count: int) -> None:
    """Requires one weight for each of `count` datasets, or none at all."""
    if not weights:
        return
    require(count > 0, f"{name}={weights} would be ignored: there is no mixture.")
    require(
        len(weights) == count,
        f"{name}={weights} are {len(weights)} weights for {count} datasets of the mixture; "
        "give one for each.",
    )
    require(
        min(weights) >= 0.0 and sum(weights) > 0.0,
        f"{name}={weights} must not be negative, and one must be greater than 0.",
    )


def require_step(owner: object) -> None:
    """Requires that `checkpoint_step`, where it is given, has a checkpoint and is one."""
    require_not_negative(owner, "checkpoint_step")
    has_checkpoint = vars(owner)["checkpoint"] is not None
    why = "there is no checkpoint. Give --checkpoint RUN."
    require_used(owner, has_checkpoint, why, "checkpoint_step")


def require_workers(owner: object, *names: str) -> None:
    """Requires that each named field is a number of processes that can be started."""
    for name in names:
        value = getattr(owner, name)
        require(
            value <= MAX_WORKERS,
            f"{type(owner).__name__}.{name}={value} is more than {MAX_WORKERS:,} processes "
            "or threads; give the number of this machine's cores or less.",
        )


def require_fitting_numbers(owner: object, *, is_flag: bool = False) -> None:
    """Requires that every number fits into what computes with it.

    Whole numbers must fit 32 bits with a sign, numbers of bytes 64 bits. Others must be
    finite, and no smaller than what a float32 tells from 0.

    Args:
        owner: a dataclass; numbers in tuples count, those of dataclasses in it do not.
        is_flag: whether the fields are flags of a command, which errors then name.
    """
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        value = getattr(owner, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            name = f"{type(owner).__name__}.{field.name}="
            if is_flag:
                name = f"--{field.name.replace('_', '-')} "
            if isinstance(number, int):
                bits = 63 if field.name.endswith("_bytes") else 31
                # Seeds have a check of their own.
                fits = abs(number) < 2**bits or "seed" in field.name
                require(
                    fits, f"{name}{number} is too large; it must be below 2**{bits}."
                )
                continue
            require(math.isfinite(number), f"{name}{number} must be a finite number.")
            size = abs(number)
            require(
                size == 0.0 or _SMALLEST <= size <= _LARGEST,
                f"{name}{number} does not fit a float32, which takes it for "
                f"{'0' if size < 1 else 'infinite'}; give 0, or a size from "
                f"{_SMALLEST:.2g} to {_LARGEST:.2g}.",
            )
