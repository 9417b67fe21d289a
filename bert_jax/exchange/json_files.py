"""JSON files of models: read with a clear refusal, written alike."""

import json
import pathlib
from typing import Any

from bert_jax.data.json_text import loads


def load_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file is no JSON, or holds something else than an object.
    """
    try:
        value = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; fetch it again.")
    return value


def save_json(path: pathlib.Path, value: object) -> None:
    """Writes indented JSON that ends in a line break."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
