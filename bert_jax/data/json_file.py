"""JSON files of runs and datasets: written whole with a hash of their content, read by name."""

import json
from typing import Any

from bert_jax.data.atomic_file import AnyPath, write_atomically
from bert_jax.data.hashes import json_sha256
from bert_jax.data.json_text import loads

_HASH = "sha256"
_OF_ITS_VERSION = "Start a new run, or use the version that wrote this one."


def write_json(path: AnyPath, value: dict[str, Any], *, seal: str = _HASH) -> None:
    """Writes an object as indented JSON, and the hash of its content under `seal`.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    plain = json.loads(json.dumps(value))  # as it is read: no tuples, keys are text
    sealed = {**plain, seal: json_sha256(plain)}
    write_atomically(path, json.dumps(sealed, indent=2) + "\n")


def read_json(
    path: AnyPath,
    way_out: str,
    *,
    version: int | None = None,
    other_version: str = _OF_ITS_VERSION,
    seal: str = _HASH,
) -> dict[str, Any]:
    """The object that `write_json` wrote, without its hash.

    Args:
        path: the file.
        way_out: sentence that says what to do when the file is lost; it ends the errors.
        version: "format_version" that the content must have. Default: it has none.
        other_version: sentence that says what to do when it has another one.
        seal: name under which the hash was written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no JSON object, has another format, or was changed after
            it was written.
    """
    try:
        value = loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing. {way_out}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: no JSON ({error}). {way_out}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object. {way_out}")
    # Before the hash, which some older formats did not have.
    if version is not None and value.get("format_version") != version:
        raise ValueError(
            f"{path} has format {value.get('format_version')}; this version of bert_jax "
            f"reads {version}. {other_version}"
        )
    if value.pop(seal, None) != json_sha256(value):
        raise ValueError(
            f"{path} was changed after it was written: its content does not have the "
            f"hash {seal!r} in it. {way_out}"
        )
    return value
