"""Writes and reads `manifest.json`, which carries a hash of itself."""

import hashlib
from typing import Any

from bert_jax.data.atomic_file import AnyPath
from bert_jax.data.json_file import read_json, write_json
from bert_jax.data.prepared.format import FORMAT_VERSION, MANIFEST

_OWN_HASH = "manifest_sha256"  # "sha256" holds the hashes of the shards


def write_manifest(directory: AnyPath, manifest: dict[str, Any]) -> None:
    """Writes the manifest and its hash, the last file of a dataset."""
    write_json(directory / MANIFEST, manifest, seal=_OWN_HASH)


def read_manifest(directory: AnyPath) -> dict[str, Any]:
    """The manifest as it was written.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or has another format version.
    """
    return read_json(
        directory / MANIFEST,
        "Copy the file again or prepare the dataset again.",
        version=FORMAT_VERSION,
        other_version="Prepare the dataset again.",
        seal=_OWN_HASH,
    )


def dataset_sha256(manifest: dict[str, Any]) -> str:
    """One hash over all shard files.

    In the dataset's directory, `sha256sum *.array_record-* | sha256sum` prints the same
    (in the C locale, which sorts names by their bytes).
    """
    lines = [f"{sha256}  {name}\n" for name, sha256 in manifest["sha256"].items()]
    listed = sorted(lines, key=lambda line: line.split("  ", 1)[1].encode())
    return hashlib.sha256("".join(listed).encode()).hexdigest()
