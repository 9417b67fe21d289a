"""Checkpoints in an object store (gs://, s3://).

They have the files that they have in a run directory. A checkpoint is complete when its
manifest is there: it is written last and deleted first.
"""

import pathlib
import re
import shutil

from bert_jax.data.object_store import StoreFolder
from bert_jax.train.runs.checkpoint_files import MANIFEST_FILE, damage_of

CHECKPOINTS = "checkpoints"
BEST = "best"
PLACES = (CHECKPOINTS, BEST)


def steps_in_store(names: dict[str, int], place: str) -> list[int]:
    """Steps of the complete checkpoints among the files of a run, the newest first."""
    manifest = re.compile(rf"{place}/([0-9]+)/{re.escape(MANIFEST_FILE)}")
    found = filter(None, map(manifest.fullmatch, names))
    return sorted((int(match[1]) for match in found), reverse=True)


def put_checkpoint(source: pathlib.Path, folder: StoreFolder) -> None:
    """Copies a checkpoint into a folder of a store, and replaces what is there.

    Raises:
        OSError: it cannot be read or written.
    """
    delete_checkpoint(folder)
    files = (path for path in source.rglob("*") if path.is_file())
    names = {path.relative_to(source).as_posix() for path in files}
    folder.put(source, names - {MANIFEST_FILE})
    folder.write(MANIFEST_FILE, (source / MANIFEST_FILE).read_bytes())


def get_checkpoint(folder: StoreFolder, target: pathlib.Path) -> None:
    """Copies a checkpoint of a store to a local folder, unless the same one is there.

    Raises:
        FileNotFoundError: it is not there, or is deleted meanwhile.
        ValueError: a file is not what was saved; it is named.
        OSError: it cannot be read or written.
    """
    manifest = folder.read(MANIFEST_FILE)
    if manifest is None:
        raise FileNotFoundError(f"{folder}/{MANIFEST_FILE} is not there.")
    local = target / MANIFEST_FILE
    if local.is_file() and local.read_bytes() == manifest:
        return
    partial = target.with_name(f"{target.name}.partial-of-store")
    for old in (target, partial):
        shutil.rmtree(old, ignore_errors=True)
    folder.get(partial, folder.sizes())
    if (damage := damage_of(partial)) is not None:
        shutil.rmtree(partial)
        raise ValueError(damage.replace(str(partial), str(folder)))
    partial.rename(target)


def delete_checkpoint(folder: StoreFolder) -> None:
    """Deletes a checkpoint, its manifest first: what is left is no checkpoint."""
    folder.delete(sorted(folder.sizes(), key=lambda name: name != MANIFEST_FILE))
