"""Texts that a program gives from Python, as tuples; what else it may give is refused."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from bert_jax.data.labelled.texts import text_of

Given = str | Sequence[str | tuple[str, ...]]


def tuples_of(texts: Given) -> list[tuple[str, ...]]:
    """Each text as a tuple.

    Raises:
        ValueError: something else was given, such as a dict or a table, whose own strings
            are the names of its columns.
    """
    some = [texts] if isinstance(texts, str) else texts
    if not _is_list(some) or hasattr(some, "columns"):
        raise ValueError(
            f"The texts are of type {type(some).__name__}; expected one string, or a list of "
            "strings or of tuples of strings. Of a table, pass a column as a list."
        )
    return [_tuple(text, number) for number, text in enumerate(some, 1)]


def _tuple(text: object, number: int) -> tuple[str, ...]:
    parts = (text,) if isinstance(text, str) else text
    found = tuple(parts) if _is_list(parts) else (None,)
    if not all(isinstance(part, str) for part in found):
        raise ValueError(
            f"Text {number} is {text!r}; expected a string, or a tuple of strings."
        )
    for part in found:
        text_of(part, f"Text {number}")
    return found


def _is_list(given: object) -> TypeGuard[Iterable[Any]]:
    """Whether it holds values in an order; not names or numbers, as a dict and bytes."""
    unfit = isinstance(given, Mapping | bytes | set | frozenset)
    return isinstance(given, Iterable) and not unfit
