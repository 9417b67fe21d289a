"""One shard of a prepared dataset: documents in, two finished ArrayRecord files out.

A shard is a pure function of its job, so any number of worker processes writes the
same bytes, and a shard that is there is never written again.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.file_hash import file_sha256
from bert_jax.data.prepared.arrays import save_array
from bert_jax.data.prepared.audit import ShardAudit
from bert_jax.data.prepared.fingerprints import Fingerprints
from bert_jax.data.prepared.pool import Progress
from bert_jax.data.prepared.records import (
    DATASET_NAME,
    SPLITS,
    TokenizedDocument,
    record_serializer,
    tokenize,
)
from bert_jax.data.prepared.storage import write_text_atomically
from bert_jax.data.text.reading import Document, ReadOptions, ReadStats, read_unit
from bert_jax.data.text.sentences import validation_group
from bert_jax.data.text.sources import Unit
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything a worker process needs to write one shard."""

    output: pathlib.Path
    tokenizer_sha256: str
    units: tuple[Unit, ...]
    index: int
    num_shards: int
    validation_fraction: float
    language: str
    read: ReadOptions
    near: bool
    """Whether signatures for near copies are taken."""
    drop: bool
    """Whether the documents named in the shard's drop file are left out."""

    def path(self, split: str) -> pathlib.Path:
        """Where TFDS expects this shard of `split`."""
        return self.output / (
            f"{DATASET_NAME}-{split}.array_record-"
            f"{self.index:05d}-of-{self.num_shards:05d}"
        )

    def part(self, kind: str) -> pathlib.Path:
        """A file beside the shards: `stats.json`, `hashes.npy`, ..."""
        return self.output / "shards" / f"{self.index:05d}.{kind}"

    @property
    def scratch(self) -> pathlib.Path:
        """Where unfinished files lie, apart from those of any other process."""
        return self.output / "unfinished" / f"{self.index:05d}-{os.getpid()}"

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.units)


def documents(
    job: ShardJob, stats: ReadStats, progress: Progress
) -> Iterator[Document]:
    """The documents of a shard, those to be dropped among them, in reading order."""
    told = 0
    for unit in job.units:
        for document in read_unit(unit, stats, job.read):
            progress(stats.disk_bytes - told)
            told = stats.disk_bytes
            yield document
    progress(job.size_bytes - told)


class ShardFile(NamedTuple):
    """One finished file of a split."""

    name: str
    num_documents: int
    size_bytes: int
    sha256: str


class ShardWork:
    """The documents of one shard as records, and what is counted on the way."""

    def __init__(self, job: ShardJob, tokenizer: Tokenizer) -> None:
        self._job, self._tokenizer = job, tokenizer
        self._audit = ShardAudit(tokenizer.vocab_size)
        self._stats = ReadStats()
        # Before documents are dropped, `write_fingerprints` has taken them.
        self._prints = None if job.drop else Fingerprints(near=job.near)

    def records(self, progress: Progress) -> Iterator[tuple[int, TokenizedDocument]]:
        """All records in reading order, each with the number of its split."""
        job, audit = self._job, self._audit
        dropped = np.zeros(0, np.int64)
        if job.drop:
            dropped = np.load(job.part("drop.npy"), allow_pickle=False)
        leave_out = frozenset(dropped.tolist())
        for number, document in enumerate(documents(job, self._stats, progress)):
            text = document.text.encode()
            if self._prints is not None:
                self._prints.add(text)
            held_out = validation_group(document.group, job.validation_fraction)
            audit.held_out.append(held_out)
            if number in leave_out:
                continue
            record = tokenize(self._tokenizer, document, job.language)
            if not record.tokens.size:
                audit.skip()
                continue
            audit.add(document.text, len(text), record, int(held_out))
            yield int(held_out), record

    def save_parts(self, scratch: pathlib.Path) -> None:
        """Keeps the arrays that the whole corpus is judged by."""
        audit, prints = self._audit, self._prints
        parts = {
            "counts.npy.gz": audit.counts,
            "held_out.npy": np.array(audit.held_out, bool),
        }
        if prints is not None:
            parts |= _prints(prints)
        _save(self._job, scratch, parts)

    def result(self) -> dict[str, Any]:
        """What was counted but for the arrays, as JSON can hold it."""
        return {**self._audit.result(), "read": dataclasses.asdict(self._stats)}


def write_shard(job: ShardJob, progress: Progress) -> dict[str, Any]:
    """Writes both splits of one shard and returns its statistics.

    Returns at once when the shard is already complete. Files appear under their final
    names only when whole; the statistics come last.
    """
    if job.part("stats.json").exists():
        progress(job.size_bytes)
        return json.loads(job.part("stats.json").read_text())
    tokenizer = _tokenizer(job.output / "tokenizer", job.tokenizer_sha256)
    serialize = record_serializer(tokenizer.vocab_size)
    work = ShardWork(job, tokenizer)
    scratch = job.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    writers = [open_shard(scratch / split) for split in SPLITS]
    for number, record in work.records(progress):
        writers[number].write(serialize(record))
    for writer in writers:
        writer.close()

    result = work.result()
    files = {}
    for split in SPLITS:
        path = job.path(split)
        os.replace(scratch / split, path)
        num_documents = result["splits"][split]["documents"]
        files[split] = ShardFile(
            path.name, num_documents, path.stat().st_size, file_sha256(path)
        )
    work.save_parts(scratch)
    result["files"] = {split: file._asdict() for split, file in files.items()}
    write_text_atomically(job.part("stats.json"), json.dumps(result, indent=2))
    shutil.rmtree(scratch)
    return result


def open_shard(path: pathlib.Path) -> Any:
    """A writer of an ArrayRecord file; it must be closed."""
    from array_record.python import array_record_module

    # One record a group: random reads decompress nothing but what they want.
    return array_record_module.ArrayRecordWriter(str(path), "group_size:1")


def write_fingerprints(job: ShardJob, progress: Progress) -> None:
    """Reads the documents of a shard only to tell copies apart, before any is dropped."""
    if job.part("hashes.npy").exists():
        progress(job.size_bytes)
        return
    prints, held_out = Fingerprints(near=job.near), []
    for document in documents(job, ReadStats(), progress):
        prints.add(document.text.encode())
        held_out.append(validation_group(document.group, job.validation_fraction))
    scratch = job.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    parts = {"held_out.npy": np.array(held_out, bool), **_prints(prints)}
    _save(job, scratch, parts)
    shutil.rmtree(scratch)


def _prints(prints: Fingerprints) -> dict[str, np.ndarray]:
    parts = {"signatures.npy": prints.signatures()} if prints.near else {}
    return parts | {"hashes.npy": prints.hashes()}  # last: they say that all is there


def _save(job: ShardJob, scratch: pathlib.Path, parts: dict[str, np.ndarray]) -> None:
    job.part("").parent.mkdir(exist_ok=True)
    for name, array in parts.items():
        save_array(scratch / name, array)
        os.replace(scratch / name, job.part(name))


@functools.lru_cache(maxsize=1)
def _tokenizer(directory: pathlib.Path, sha256: str) -> Tokenizer:
    """Kept for the next shard of this process, and with it the words it has met."""
    tokenizer = load_tokenizer(directory)
    assert tokenizer.sha256 == sha256
    return tokenizer
