"""JSON of files that others wrote, whose every fault is a `json.JSONDecodeError`."""

import json
from collections.abc import Callable
from typing import Any


def loads(
    text: str | bytes,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Does what `json.loads` does.

    Raises:
        json.JSONDecodeError: the text is no JSON, is nested too deeply for Python's
            parser, or holds a number with more digits than Python reads.
        ValueError: the hook raised it.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise json.JSONDecodeError("a number is too long", text, 0) from None
        raise


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for objects in which no name may stand twice.

    Raises:
        json.JSONDecodeError: one does. Python would take the last value.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise json.JSONDecodeError(f"an object names {doubled!r} twice", doubled, 0)
    return found
