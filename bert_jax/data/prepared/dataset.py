"""Opens a prepared dataset: its manifest, its tokenizer, its token streams.

Random access to single records is far slower than training wants, so each split is
laid out once as memory-mapped arrays beside the shards.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.data.file_hash import file_sha256
from bert_jax.data.prepared.prepare import FORMAT_VERSION, MANIFEST, TOKENIZER
from bert_jax.data.prepared.records import SPLITS
from bert_jax.data.prepared.store import TokenStore
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer, token_dtype

_RECORDS_AT_ONCE = 1_000


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A finished directory of `bert-jax prepare`."""

    directory: pathlib.Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer

    def load_split(self, split: str) -> TokenStore:
        """The token stream of one split; the first call lays it out on disk.

        Raises:
            ValueError: the split is unknown, a shard differs from its hash, or a
                record holds ids outside the vocabulary.
        """
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}; there are {', '.join(SPLITS)}.")
        index = self.directory / "index" / split
        if not index.exists():
            _lay_out(self, split, index)
        store = TokenStore(
            *(
                np.load(index / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in TokenStore._fields
            )
        )
        counts = self.manifest["splits"][split]
        sizes = (counts["tokens"], counts["sentences"] + 1, counts["documents"] + 1)
        if tuple(array.size for array in store) != sizes:
            raise ValueError(
                f"{index} does not belong to this dataset; delete that folder, it is "
                "laid out again from the shards."
            )
        return store


def open_dataset(directory: pathlib.Path | None) -> PreparedDataset:
    """Checks that a prepared dataset is whole and readable by this version.

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: its format is newer, or a file is missing or of another size.
    """
    if directory is None:
        raise ValueError(
            "No dataset given; pass --data.dataset DIR, a directory written by "
            "`bert-jax prepare`."
        )
    if not (directory / MANIFEST).exists():
        raise FileNotFoundError(
            f"{directory} holds no finished dataset ({MANIFEST} is missing); run "
            "`bert-jax prepare` with this --output, or run it again if it was stopped."
        )
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{directory / MANIFEST} is not valid JSON ({error}); prepare the dataset "
            "again."
        ) from None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{directory} has format version {manifest.get('format_version')}; this "
            f"version of bert_jax reads {FORMAT_VERSION}. Prepare the dataset again."
        )
    missing = [name for name in manifest["sha256"] if not (directory / name).exists()]
    if missing:
        raise ValueError(
            f"{directory} lacks {len(missing)} of its {len(manifest['sha256'])} shard "
            f"files, the first being {missing[0]}; copy them back or prepare again."
        )
    tokenizer = load_tokenizer(directory / TOKENIZER)
    if tokenizer.sha256 != manifest["tokenizer"]["sha256"]:
        raise ValueError(
            f"The tokenizer in {directory / TOKENIZER} is not the one that the dataset "
            "was prepared with; prepare the dataset again."
        )
    return PreparedDataset(directory, manifest, tokenizer)


def _lay_out(dataset: PreparedDataset, split: str, index: pathlib.Path) -> None:
    """Reads every record of a split once, checking it, and writes three arrays."""
    for name, expected in dataset.manifest["sha256"].items():
        if f"-{split}." in name and file_sha256(dataset.directory / name) != expected:
            raise ValueError(
                f"{dataset.directory / name} is corrupt: its hash is not the one in "
                f"{MANIFEST}. Copy the file again or prepare the dataset again."
            )
    counts = dataset.manifest["splits"][split]
    partial = index.with_name(f"{split}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sizes = (counts["tokens"], counts["sentences"] + 1, counts["documents"] + 1)
    id_type = np.dtype(token_dtype(dataset.tokenizer.vocab_size))
    kinds = (id_type, np.dtype(np.int64), np.dtype(np.int64))
    arrays = [
        np.lib.format.open_memmap(partial / f"{name}.npy", "w+", kind, (size,))
        for name, kind, size in zip(TokenStore._fields, kinds, sizes, strict=True)
    ]
    store = TokenStore(*arrays)
    sentence = document = 0
    for ids, lengths, counted in _blocks(dataset, split):
        token = store.sentence_starts[sentence]
        store.tokens[token : token + ids.size] = ids
        here = slice(sentence + 1, sentence + 1 + lengths.size)
        np.cumsum(lengths, dtype=np.int64, out=store.sentence_starts[here])
        store.sentence_starts[here] += token
        here = slice(document + 1, document + 1 + counted.size)
        np.cumsum(counted, dtype=np.int64, out=store.document_starts[here])
        store.document_starts[here] += sentence
        sentence += lengths.size
        document += counted.size
    for array in arrays:
        array.flush()
    try:
        os.replace(partial, index)
    except OSError:
        # Another process finished first; its arrays are the same.
        shutil.rmtree(partial)
        if not index.exists():
            raise


def _blocks(
    dataset: PreparedDataset, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tokens, lengths of sentences, sentences of documents: some records at a time."""
    import tensorflow_datasets as tfds
    import tqdm

    vocab_size = dataset.tokenizer.vocab_size
    records = tfds.builder_from_directory(str(dataset.directory)).as_data_source(
        split=split
    )
    starts = range(0, len(records), _RECORDS_AT_ONCE)
    # Silent where it takes no time.
    for start in tqdm.tqdm(starts, f"laying out {split}", delay=2.0, unit="k"):
        numbers = range(start, min(start + _RECORDS_AT_ONCE, len(records)))
        block = records.__getitems__(numbers)
        for record in block:
            ids, lengths = record["tokens"], record["sentence_lengths"]
            # Sums of 16-bit lengths, in 64 bits.
            if ids.size != lengths.sum(dtype=np.int64) or ids.max() >= vocab_size:
                raise ValueError(
                    f"Document {record['key'].decode()!r} of {dataset.directory} does "
                    f"not fit its tokenizer of {vocab_size} pieces or its sentence "
                    "lengths; prepare the dataset again."
                )
        yield (
            np.concatenate([record["tokens"] for record in block]),
            np.concatenate([record["sentence_lengths"] for record in block]),
            np.array([record["sentence_lengths"].size for record in block]),
        )
