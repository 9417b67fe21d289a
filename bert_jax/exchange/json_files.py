"""JSON files of models: read with a clear refusal, written alike."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.data.json_text import loads


def load_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file is no JSON, or holds something else than an object.
    """
    value = load_any_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; fetch it again.")
    return value


def load_any_json(path: pathlib.Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: the file is no JSON.
    """
    try:
        return loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again.") from error


def of_form(
    path: pathlib.Path, config: Mapping[str, Any], key: str, form: type, name: str
) -> Any:
    """The value of a key, or `None` without one.

    Args:
        path: of the file, for messages.
        config: its content.
        key: in `config`.
        form: type of the value.
        name: of `form`, in words.

    Raises:
        ValueError: the value is of another type.
    """
    value = config.get(key)
    if not isinstance(value, form | None):
        raise ValueError(
            f"{path} has {key}={value!r}; expected {name}. Fetch it again."
        )
    return value


def save_json(path: pathlib.Path, value: object) -> None:
    """Writes indented JSON that ends in a line break."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
