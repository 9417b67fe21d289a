"""From a text source to a prepared dataset on this machine: `bert-jax prepare`.

The dataset is a standard TFDS one (ArrayRecord shards, readable with
`tfds.builder_from_directory`), with one record per document. `manifest.json` is written
last and names every file with its hash. A directory without it holds unfinished work,
which the same command continues.
"""

import multiprocessing
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from bert_jax.config import DEFAULT_OPTIONS, PrepareOptions
from bert_jax.data.atomic_file import remove_leftovers
from bert_jax.data.prepared.format import MANIFEST, SIDE_FILES, SPLITS, TOKENIZER
from bert_jax.data.prepared.locking import locked
from bert_jax.data.prepared.manifest import read_manifest
from bert_jax.data.prepared.pool import map_in_workers
from bert_jax.data.prepared.shards import ShardFile, write_fingerprints, write_shard
from bert_jax.data.prepared.stages import (
    begin,
    choose_what_to_drop,
    finish,
    make_plan,
    make_shards,
    refuse_problems,
)
from bert_jax.data.text.sources import Source, Sources, open_source
from bert_jax.data.tokenizers.saved_tokenizer import open_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer

Progress = Callable[[int, int], None]


def prepare(
    source: Sources,
    tokenizer: pathlib.Path,
    output: pathlib.Path,
    options: PrepareOptions = DEFAULT_OPTIONS,
    *,
    strict: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokenises a source and writes it as a dataset with a training and a validation split.

    Args:
        source: where the text is, one or more names as `open_source` takes them.
        tokenizer: what `open_tokenizer` takes.
        output: directory of the dataset; unfinished work there is continued.
        options: everything else that decides the content.
        strict: raise an error if the audit finds what would spoil training.
        num_workers: number of processes; one per core when `None`. The dataset does not
            depend on it.
        progress: called with (bytes of the source read, bytes to read in all). The
            source is read twice if duplicates are dropped.

    Returns:
        The manifest.

    Raises:
        ValueError: the directory holds a dataset of other settings, a split came out
            empty, or `strict` is set and the audit found a problem.
        ChildProcessError: a worker process was killed.
        RuntimeError: it is called in a process that it has started itself.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "prepare starts processes, which import the script that called it: call it "
            'there under `if __name__ == "__main__":`, or with num_workers=1.'
        )
    opened = open_source(source)
    loaded = open_tokenizer(tokenizer)
    begin(output, make_plan(opened, loaded, options), opened, options)
    if not (output / MANIFEST).exists():
        with locked(output):
            _write(opened, loaded, output, options, strict, num_workers, progress)
    _remove_leftovers(output)
    manifest = read_manifest(output)
    if strict:
        refuse_problems(manifest, output)
    return manifest


def _remove_leftovers(output: pathlib.Path) -> None:
    """Removes unfinished files of killed runs, even of one killed after its manifest."""
    for leftover in ("unpacked", "unfinished"):
        shutil.rmtree(output / leftover, ignore_errors=True)
    for folder in (output, output / SIDE_FILES, output / TOKENIZER):
        remove_leftovers(folder)


def _write(
    opened: Source,
    loaded: Tokenizer,
    output: pathlib.Path,
    options: PrepareOptions,
    strict: bool,
    num_workers: int | None,
    progress: Progress | None,
) -> None:
    """Does all the work between the plan and the manifest."""
    if (output / MANIFEST).exists():
        return  # Another process had the lock and finished the dataset.
    loaded.save(output / TOKENIZER)
    shutil.rmtree(output / "unfinished", ignore_errors=True)
    shards = make_shards(opened, loaded, output, options, output / "unpacked")
    drop = options.duplicates == "drop"
    num_bytes = sum(shard.size_bytes for shard in shards)
    total = num_bytes * (1 + drop)
    tell = progress or (lambda done, total: None)
    tell(0, total)
    copies = None
    if drop:
        map_in_workers(
            write_fingerprints,
            shards,
            num_workers=num_workers,
            report=lambda done: tell(done, total),
        )
        copies = choose_what_to_drop(shards, options)
    results = map_in_workers(
        write_shard,
        shards,
        num_workers=num_workers,
        report=lambda done: tell(total - num_bytes + done, total),
    )
    files = {
        split: [ShardFile(**result["files"][split]) for result in results]
        for split in SPLITS
    }
    finish(
        output, shards, results, files, loaded, options, opened, copies, strict=strict
    )
