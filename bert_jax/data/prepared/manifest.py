"""Writes and reads `manifest.json`, which carries a hash of itself."""

import hashlib
import json
from typing import Any

from bert_jax.data.atomic_file import AnyPath, write_atomically
from bert_jax.data.hashes import json_sha256
from bert_jax.data.json_text import loads
from bert_jax.data.prepared.format import FORMAT_VERSION, MANIFEST

_OWN_HASH = "manifest_sha256"


def write_manifest(directory: AnyPath, manifest: dict[str, Any]) -> None:
    """Writes the manifest and its hash, the last file of a dataset."""
    sealed = {**manifest, _OWN_HASH: json_sha256(manifest)}
    write_atomically(directory / MANIFEST, json.dumps(sealed, indent=2) + "\n")


def read_manifest(directory: AnyPath) -> dict[str, Any]:
    """The manifest as it was written.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or has another format version.
    """
    path = directory / MANIFEST
    try:
        manifest = loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); prepare the dataset again."
        ) from None
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{directory} has format version {version}; this version of bert_jax reads "
            f"{FORMAT_VERSION}. Prepare the dataset again."
        )
    if manifest.pop(_OWN_HASH, None) != json_sha256(manifest):
        raise ValueError(
            f"{path} was changed after it was written: its content does not have the "
            f"hash {_OWN_HASH!r} in it. Copy the file again or prepare the dataset again."
        )
    return manifest


def dataset_sha256(manifest: dict[str, Any]) -> str:
    """One hash over all shard files.

    In the dataset's directory, `sha256sum *.array_record-* | sha256sum` prints the same
    (in the C locale, which sorts names by their bytes).
    """
    lines = [f"{sha256}  {name}\n" for name, sha256 in manifest["sha256"].items()]
    listed = sorted(lines, key=lambda line: line.split("  ", 1)[1].encode())
    return hashlib.sha256("".join(listed).encode()).hexdigest()
