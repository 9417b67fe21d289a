"""Hashes of a checkpoint's files: written when it is saved, compared when it is read.

Disks and copies lose or change bytes without a word, and Orbax does not look. The process
that completes a checkpoint hashes its files and puts the hashes into the manifest, in
Orbax's background thread and before the checkpoint gets its final name. So every complete
checkpoint has them.
"""

import concurrent.futures
import json
import os
import pathlib
from collections.abc import Collection
from typing import Any

from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.hashes import file_sha256, json_sha256

MANIFEST = "manifest"
_FILE = "metadata"  # of the manifest's item; Orbax's own name for a file of JSON
MANIFEST_FILE = f"{MANIFEST}/{_FILE}"
_COMMITTED = "commit_success.txt"  # Orbax's mark of a whole item; Orbax reads it itself
_MOST_THREADS = 4


def add_hashes(checkpoint: pathlib.Path, manifest: pathlib.Path) -> None:
    """Completes a manifest with the hashes of all other items, which must be written."""
    hashes = {
        name: file_sha256(checkpoint / name)
        for item in checkpoint.iterdir()
        if item.is_dir() and item != manifest
        for name in _files(checkpoint, item.name)
    }
    path = manifest / _FILE
    whole = {**json.loads(path.read_text(encoding="utf-8")), "files": hashes}
    write_atomically(path, json.dumps({**whole, "sha256": json_sha256(whole)}))


def read_manifest(checkpoint: pathlib.Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        ValueError: the file is missing or was changed; it is named.
    """
    path = checkpoint / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
        told = manifest.pop("sha256", None)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{path} is not what was saved") from None
    if told != json_sha256(manifest):
        raise ValueError(f"{path} is not what was saved")
    return manifest


def check_files(
    checkpoint: pathlib.Path, manifest: dict[str, Any], items: Collection[str]
) -> None:
    """Compares the files of some items with the hashes of the manifest.

    Args:
        checkpoint: directory of one step.
        manifest: what `read_manifest` returned.
        items: such as "params"; only their files are read.

    Raises:
        ValueError: a file is missing or was changed; the message names the first one.
    """
    expected = {
        name: digest
        for name, digest in manifest["files"].items()
        if name.partition("/")[0] in items
    }

    def problem(name: str) -> str | None:
        path = checkpoint / name
        try:
            found = file_sha256(path)
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        return None if found == expected[name] else f"{path} is not what was saved"

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        if found := next(filter(None, pool.map(problem, sorted(expected))), None):
            raise ValueError(found)


def damage_of(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with the files of a checkpoint, by name; `None` if it is whole."""
    try:
        manifest = read_manifest(checkpoint)
        items = {name.split("/")[0] for name in manifest["files"]}
        check_files(checkpoint, manifest, items)
    except ValueError as damage:
        return str(damage)
    return None


def _files(checkpoint: pathlib.Path, item: str) -> list[str]:
    paths = (path for path in (checkpoint / item).rglob("*") if path.is_file())
    names = (path.relative_to(checkpoint).as_posix() for path in paths)
    return sorted(name for name in names if not name.endswith(f"/{_COMMITTED}"))
