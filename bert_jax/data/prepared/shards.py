"""One shard of a prepared dataset: sections of a source in, two ArrayRecord files out.

The bytes of a shard follow from its description alone, so any number of worker
processes writes the same ones, and a shard that exists is never written again.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import PrepareOptions
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.hashes import file_sha256
from bert_jax.data.prepared.arrays import save_array
from bert_jax.data.prepared.audit import ShardAudit
from bert_jax.data.prepared.encoding_check import Encoding
from bert_jax.data.prepared.fingerprints import Fingerprints
from bert_jax.data.prepared.format import (
    DATASET_NAME,
    SIDE_FILES,
    SPLITS,
    TOKENIZER,
)
from bert_jax.data.prepared.pool import Progress
from bert_jax.data.prepared.records import (
    TokenizedDocument,
    serialize,
    tokenize,
)
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sections import Section
from bert_jax.data.text.sentences import validation_group
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# Each stage takes documents of about so much text at a time. With less, its code and tables
# leave the processor's caches before it has the next; with more, the text does.
_BYTES_AT_ONCE = 1 << 17


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Everything that a worker process needs to know to write one shard."""

    output: pathlib.Path
    tokenizer_sha256: str
    sections: tuple[Section, ...]
    index: int
    num_shards: int
    options: PrepareOptions
    encoding: Encoding

    def path(self, split: str) -> pathlib.Path:
        """The file where TFDS expects this shard of `split`."""
        return self.output / (
            f"{DATASET_NAME}-{split}.array_record-"
            f"{self.index:05d}-of-{self.num_shards:05d}"
        )

    def side_file(self, kind: str) -> pathlib.Path:
        """A file about this shard, such as `stats.json` or `hashes.npy`."""
        return self.output / SIDE_FILES / f"{self.index:05d}.{kind}"

    @property
    def scratch(self) -> pathlib.Path:
        """The folder for unfinished files of this shard and this process alone."""
        return self.output / "unfinished" / f"{self.index:05d}-{os.getpid()}"

    @property
    def size_bytes(self) -> int:
        return sum(section.size_bytes for section in self.sections)

    @property
    def near(self) -> bool:
        """Whether signatures are computed, by which near copies are found."""
        return self.options.near_threshold > 0.0

    @property
    def drop(self) -> bool:
        """Whether the documents listed in the side file `drop.npy` are left out."""
        return self.options.duplicates == "drop"

    def documents(
        self, progress: Progress, stats: dict[int, ReadStats] | None = None
    ) -> Iterator[Document]:
        """All documents in reading order, including those that will be dropped.

        Args:
            progress: called while sections are read.
            stats: if given, gets what was read from each source, by `Section.source`.
        """
        for section in self.sections:
            counted, reported = ReadStats(), 0
            for document in read_section(section, counted, self.options.read):
                progress(counted.disk_bytes - reported)
                reported = counted.disk_bytes
                yield document
            progress(section.size_bytes - reported)
            if stats is not None:
                before = stats.get(section.source, ReadStats())
                stats[section.source] = before + counted

    def is_held_out(self, document: Document) -> bool:
        return validation_group(document.group, self.options.validation_fraction)


def in_groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Groups of documents, in order, that go through the stages together."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document.utf8)
        if size >= _BYTES_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


class ShardFile(NamedTuple):
    """One finished file of a split."""

    name: str
    num_documents: int
    size_bytes: int
    sha256: str


class ShardRecords:
    """Turns the documents of one shard into records, and counts them on the way."""

    def __init__(self, shard: Shard, tokenizer: Tokenizer) -> None:
        self._shard, self._tokenizer = shard, tokenizer
        if shard.encoding.refused:
            tokenizer.encoder.use_defining()
        self._audit = ShardAudit(tokenizer.vocab_size)
        self._stats: dict[int, ReadStats] = {}
        # Where documents are dropped, `write_fingerprints` has computed them before.
        self._fingerprints = None if shard.drop else Fingerprints(near=shard.near)

    def records(self, progress: Progress) -> Iterator[tuple[int, TokenizedDocument]]:
        """(number of the split, record) of each document, in reading order."""
        shard, audit = self._shard, self._audit
        dropped = np.zeros(0, np.int64)
        if shard.drop:
            dropped = np.load(shard.side_file("drop.npy"), allow_pickle=False)
        left_out = frozenset(dropped.tolist())
        numbers = itertools.count()
        for some in in_groups(shard.documents(progress, self._stats)):
            if self._fingerprints is not None:
                for document in some:
                    self._fingerprints.add(document.utf8)
            held_out = [shard.is_held_out(document) for document in some]
            audit.held_out += held_out
            kept = [
                (document, int(split))
                for document, split, number in zip(
                    some, held_out, numbers, strict=False
                )
                if number not in left_out
            ]
            texts, language = [x for x, _ in kept], shard.options.language
            records = tokenize(self._tokenizer, texts, language)
            for (document, split), record in zip(kept, records, strict=True):
                audit.add(document, record, split)
            for (_, split), record in zip(kept, records, strict=True):
                if record.tokens.size:
                    yield split, record

    def save_arrays(self) -> None:
        """Writes the side files with the arrays that describe the whole corpus."""
        arrays = {
            "counts.npy.gz": self._audit.counts,
            "held_out.npy": np.array(self._audit.held_out, bool),
        }
        if self._fingerprints is not None:
            arrays |= _fingerprint_arrays(self._fingerprints)
        save_side_files(self._shard, arrays)

    def result(self) -> dict[str, Any]:
        """All counts but the arrays, as values that JSON can hold."""
        read = {str(n): dataclasses.asdict(x) for n, x in self._stats.items()}
        return {**self._audit.result(), "read": read}


def write_shard(shard: Shard, progress: Progress) -> dict[str, Any]:
    """Writes both splits of one shard and returns its statistics.

    Returns at once when the shard is complete already. Files get their final names only
    when they are whole; `stats.json` is the last one.
    """
    stats = shard.side_file("stats.json")
    if stats.exists():
        progress(shard.size_bytes)
        return json.loads(stats.read_text())
    tokenizer = _tokenizer(shard.output / TOKENIZER, shard.tokenizer_sha256)
    scratch = shard.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    writers = [open_writer(scratch / split) for split in SPLITS]
    records = ShardRecords(shard, tokenizer)
    for number, record in records.records(progress):
        writers[number].write(serialize(record))
    for writer in writers:
        writer.close()

    result = records.result()
    files = {}
    for split in SPLITS:
        path = shard.path(split)
        os.replace(scratch / split, path)
        num_documents = result["splits"][split]["documents"]
        files[split] = ShardFile(
            path.name, num_documents, path.stat().st_size, file_sha256(path)
        )
    records.save_arrays()
    result["files"] = {split: file._asdict() for split, file in files.items()}
    write_atomically(stats, json.dumps(result, indent=2))
    shutil.rmtree(scratch)
    return result


def open_writer(path: pathlib.Path) -> Any:
    """A writer of an ArrayRecord file; the caller must close it."""
    from array_record.python import array_record_module

    # With one record per group, reading a record decompresses nothing else. Level 2 of zstd
    # takes two thirds of the time of the default, 3, for files that are 1 % larger.
    return array_record_module.ArrayRecordWriter(str(path), "group_size:1,zstd:2")


def write_fingerprints(shard: Shard, progress: Progress) -> None:
    """Writes the side files by which copies are found, before any shard is written."""
    if shard.side_file("hashes.npy").exists():
        progress(shard.size_bytes)
        return
    fingerprints, held_out = Fingerprints(near=shard.near), []
    for document in shard.documents(progress):
        fingerprints.add(document.utf8)
        held_out.append(shard.is_held_out(document))
    arrays = {
        "held_out.npy": np.array(held_out, bool),
        **_fingerprint_arrays(fingerprints),
    }
    save_side_files(shard, arrays)
    shutil.rmtree(shard.scratch)


def _fingerprint_arrays(fingerprints: Fingerprints) -> dict[str, np.ndarray]:
    arrays = {"signatures.npy": fingerprints.signatures()} if fingerprints.near else {}
    # The hashes come last: where they exist, everything else does.
    return arrays | {"hashes.npy": fingerprints.hashes()}


def save_side_files(shard: Shard, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as side files, each of which appears when it is whole."""
    shard.scratch.mkdir(parents=True, exist_ok=True)
    shard.side_file("").parent.mkdir(exist_ok=True)
    for kind, array in arrays.items():
        save_array(shard.scratch / kind, array)
        os.replace(shard.scratch / kind, shard.side_file(kind))


@functools.lru_cache(maxsize=1)
def _tokenizer(directory: pathlib.Path, sha256: str) -> Tokenizer:
    """Kept for the next shard of this process, together with its cache of words."""
    tokenizer = load_tokenizer(directory)
    assert tokenizer.sha256 == sha256
    return tokenizer
