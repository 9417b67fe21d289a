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

from bert_jax.data.hashes import file_sha256, json_sha256

MANIFEST = "manifest"
_FILE = "metadata"  # of the manifest's item; Orbax's own name for a file of JSON
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
    path.write_text(
        json.dumps({**whole, "sha256": json_sha256(whole)}), encoding="utf-8"
    )


def read_manifest(checkpoint: pathlib.Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        ValueError: the file is missing or was changed; it is named.
    """
    path = checkpoint / MANIFEST / _FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        told = manifest.pop("sha256", None)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is not what was saved") from None
    # Without a hash it is of an older format, which the reader refuses by its version.
    if told is not None and told != json_sha256(manifest):
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


def is_whole(checkpoint: pathlib.Path) -> bool:
    """Whether a checkpoint's files are those that were saved."""
    try:
        manifest = read_manifest(checkpoint)
        check_files(
            checkpoint, manifest, {name.split("/")[0] for name in manifest["files"]}
        )
    except (ValueError, KeyError):
        return False
    return True


def _files(checkpoint: pathlib.Path, item: str) -> list[str]:
    paths = (path for path in (checkpoint / item).rglob("*") if path.is_file())
    names = (path.relative_to(checkpoint).as_posix() for path in paths)
    return sorted(name for name in names if not name.endswith(f"/{_COMMITTED}"))
