"""One shard of a prepared dataset: documents in, two finished ArrayRecord files out.

A shard is a pure function of its units of the source, so any number of worker
processes writes the same bytes, and a shard that is there is never written again.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from bert_jax.data.corpus import (
    Document,
    ReadStats,
    Unit,
    read_unit,
    sentences,
    validation_group,
)
from bert_jax.data.tokenizer import Tokenizer, load_tokenizer

SPLITS = ("train", "validation")
DATASET_NAME = "documents"
# A sentence's length is stored in 16 bits; longer ones are cut into several.
MAX_SENTENCE_TOKENS = 65_535


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """Everything a worker process needs to write one shard."""

    output: pathlib.Path
    tokenizer: pathlib.Path
    units: tuple[Unit, ...]
    index: int
    num_shards: int
    validation_fraction: float
    language: str

    def path(self, split: str) -> pathlib.Path:
        """Where TFDS expects this shard of `split`."""
        return self.output / (
            f"{DATASET_NAME}-{split}.array_record-"
            f"{self.index:05d}-of-{self.num_shards:05d}"
        )

    @property
    def stats_path(self) -> pathlib.Path:
        """Written last: a shard counts only when this file is there."""
        return self.output / "shards" / f"{self.index:05d}.json"

    @property
    def counts_path(self) -> pathlib.Path:
        return self.output / "shards" / f"{self.index:05d}.npy"


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest unsigned type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def features(vocab_size: int):  # type: ignore[no-untyped-def]  # TFDS has no types
    """The TFDS features of one record: a tokenised document and its sentences."""
    import tensorflow_datasets as tfds

    # Raw bytes: two a token, where the default encoding spends up to three.
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "tokens": tfds.features.Tensor(
                shape=(None,), dtype=token_dtype(vocab_size), encoding="bytes"
            ),
            "sentence_lengths": tfds.features.Tensor(
                shape=(None,), dtype=np.uint16, encoding="bytes"
            ),
        }
    )


def tokenize(
    tokenizer: Tokenizer, document: Document, language: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a document and the lengths of its sentences, both possibly empty."""
    ids = [x for x in tokenizer.encode(sentences(document.text, language)) if x]
    pieces = [
        sentence[start : start + MAX_SENTENCE_TOKENS]
        for sentence in ids
        for start in range(0, len(sentence), MAX_SENTENCE_TOKENS)
    ]
    lengths = np.array([len(piece) for piece in pieces], np.uint16)
    tokens = np.fromiter((token for piece in pieces for token in piece), np.int64)
    return tokens.astype(token_dtype(tokenizer.vocab_size)), lengths


def write_shard(job: ShardJob) -> dict:
    """Writes both splits of one shard and returns its statistics.

    Returns at once when the shard is already complete. Files appear under their final
    names only when whole; the statistics come last.
    """
    if job.stats_path.exists():
        return json.loads(job.stats_path.read_text())
    from array_record.python import array_record_module
    from tensorflow_datasets.core import example_serializer

    tokenizer = load_tokenizer(job.tokenizer)
    spec = features(tokenizer.vocab_size)
    serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
    partial = {split: _partial(job.path(split)) for split in SPLITS}
    writers = {
        # One record a group: random reads decompress nothing but what they want.
        split: array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for split, path in partial.items()
    }
    totals = {
        split: {"documents": 0, "sentences": 0, "tokens": 0, "bytes": 0}
        for split in SPLITS
    }
    counts = np.zeros((len(SPLITS), tokenizer.vocab_size), np.int64)
    read = ReadStats()
    num_empty = 0
    for document in _documents(job.units, read):
        tokens, lengths = tokenize(tokenizer, document, job.language)
        if not tokens.size:
            num_empty += 1
            continue
        held_out = validation_group(document.group, job.validation_fraction)
        split = SPLITS[int(held_out)]
        record = {"key": document.key, "tokens": tokens, "sentence_lengths": lengths}
        example = serializer.get_tf_example(spec.encode_example(record))
        # Or protobuf would order the features anew in every process.
        writers[split].write(example.SerializeToString(deterministic=True))
        counts[int(held_out)] += np.bincount(tokens, minlength=tokenizer.vocab_size)
        total = totals[split]
        total["documents"] += 1
        total["sentences"] += lengths.size
        total["tokens"] += tokens.size
        total["bytes"] += len(document.text.encode())
    for writer in writers.values():
        writer.close()

    job.stats_path.parent.mkdir(exist_ok=True)
    with _partial(job.counts_path).open("wb") as file:
        np.save(file, counts, allow_pickle=False)
    os.replace(_partial(job.counts_path), job.counts_path)
    files = {}
    for split in SPLITS:
        os.replace(partial[split], job.path(split))
        files[job.path(split).name] = file_sha256(job.path(split))
    stats = {
        "splits": totals,
        "empty_documents": num_empty,
        "read": dataclasses.asdict(read),
        "sha256": files,
    }
    write_text_atomically(job.stats_path, json.dumps(stats, indent=2))
    return stats


def _documents(units: tuple[Unit, ...], stats: ReadStats) -> Iterator[Document]:
    for unit in units:
        yield from read_unit(unit, stats)


def _partial(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".partial")


def write_text_atomically(path: pathlib.Path, text: str) -> None:
    """A reader sees the old file or the whole new one."""
    _partial(path).write_text(text)
    os.replace(_partial(path), path)


def file_sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
