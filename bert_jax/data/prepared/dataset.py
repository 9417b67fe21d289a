"""Opens a prepared dataset: its manifest, its tokenizer, its token streams.

Training reads tokens in random order, which is slow with single records. So the first
reader of a split copies it into memory-mapped arrays (`index`).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.data.hashes import file_sha256
from bert_jax.data.object_store import dataset_here
from bert_jax.data.prepared.format import MANIFEST, SPLITS, TOKENIZER
from bert_jax.data.prepared.index import index_home, open_index
from bert_jax.data.prepared.manifest import dataset_sha256, read_manifest
from bert_jax.data.prepared.store import TokenStore
from bert_jax.data.tfds_builder import open_builder
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer, token_dtype

_RECORDS_AT_ONCE = 1_000


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A finished dataset in the directory that `bert-jax prepare` wrote."""

    directory: pathlib.Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    _opened: dict[str, TokenStore] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def load_split(self, split: str) -> TokenStore:
        """The token stream of one split; the first call ever writes its arrays to disk.

        The first call of this object checks the arrays; later calls give the same ones.

        Raises:
            ValueError: the split is unknown, a shard file does not have the hash in the
                manifest, a record holds ids outside the vocabulary, or the arrays are
                not as they were written.
        """
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}; there are {', '.join(SPLITS)}.")
        if split not in self._opened:
            self._opened[split] = open_index(
                self.directory,
                self.sha256,
                split,
                _array_sizes(self, split),
                functools.partial(_write_arrays, self, split),
            )
        return self._opened[split]

    def document_keys(self, split: str, numbers: list[int]) -> list[str]:
        """The keys of some documents of a split, read from the shard files."""
        records = open_builder(self.directory).as_data_source(split=split)
        return [record["key"].decode() for record in records.__getitems__(numbers)]

    @property
    def name(self) -> str:
        """The name of the folder, by which metrics and messages tell datasets apart."""
        return self.directory.absolute().name

    @property
    def sha256(self) -> str:
        """Hash of all shard files."""
        return dataset_sha256(self.manifest)

    @property
    def index_home(self) -> pathlib.Path:
        """The folder for the arrays of splits and the plans of epochs."""
        return index_home(self.directory, self.sha256)


def open_dataset(directory: pathlib.Path | None) -> PreparedDataset:
    """Opens a prepared dataset after checking that it is whole and of this version.

    Shard files are only looked for here; their hashes are checked by `load_split`.

    A dataset in a store is copied to this machine first, as `dataset_here` does.

    Raises:
        FileNotFoundError: there is no finished dataset in `directory`.
        ValueError: `directory` is `None`, the manifest is damaged or of another format
            version, a shard file is missing, or the tokenizer is not the dataset's own.
    """
    if directory is None:
        raise ValueError(
            "No dataset given; pass --data.dataset DIR, a directory written by "
            "`bert-jax prepare`."
        )
    directory = dataset_here(directory)
    if not (directory / MANIFEST).exists():
        is_file = directory.is_file()
        raise FileNotFoundError(
            f"{directory} {'is a file and ' * is_file}holds no finished dataset ({MANIFEST} "
            "is missing); expected a directory that `bert-jax prepare` has written to its "
            "end. If prepare was stopped, the same command goes on. If the dataset was "
            "moved, name its new place instead, in pretraining with --data.dataset."
        )
    manifest = read_manifest(directory)
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


def _array_sizes(dataset: PreparedDataset, split: str) -> tuple[int, int, int]:
    """The sizes that the manifest implies for the arrays of a `TokenStore`."""
    counts = dataset.manifest["splits"][split]
    return counts["tokens"], counts["sentences"] + 1, counts["documents"] + 1


def _write_arrays(dataset: PreparedDataset, split: str, folder: pathlib.Path) -> None:
    """Reads and checks every record of a split once, and writes the three arrays."""
    records = open_builder(dataset.directory).as_data_source(split=split)
    manifest = dataset.manifest
    for name, expected in {**manifest["sha256"], **manifest["metadata_sha256"]}.items():
        is_read = f"-{split}." in name or name in manifest["metadata_sha256"]
        if is_read and file_sha256(dataset.directory / name) != expected:
            raise ValueError(
                f"{dataset.directory / name} is corrupt: its hash is not the one in "
                f"{MANIFEST}. Copy the file again or prepare the dataset again."
            )
    id_type = np.dtype(token_dtype(dataset.tokenizer.vocab_size))
    kinds = (id_type, np.dtype(np.int64), np.dtype(np.int64))
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (size,))
        for name, kind, size in zip(
            TokenStore._fields, kinds, _array_sizes(dataset, split), strict=True
        )
    ]
    store = TokenStore(*arrays)
    sentence = document = 0
    for ids, lengths, counted in _blocks(dataset, records, split):
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


def _blocks(
    dataset: PreparedDataset, records: Any, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(tokens, tokens per sentence, sentences per document) of some records at a time."""
    import tqdm

    vocab_size = dataset.tokenizer.vocab_size
    starts = range(0, len(records), _RECORDS_AT_ONCE)
    # The bar appears only if it takes longer than two seconds.
    for start in tqdm.tqdm(starts, f"indexing {split}", delay=2.0, unit="k"):
        numbers = range(start, min(start + _RECORDS_AT_ONCE, len(records)))
        block = records.__getitems__(numbers)
        for record in block:
            ids, lengths = record["tokens"], record["sentence_lengths"]
            # The lengths have 16 bits, their sum needs 64.
            if ids.size != lengths.sum(dtype=np.int64) or ids.max() >= vocab_size:
                raise ValueError(
                    f"Document {record['key'].decode()!r} of {dataset.directory} holds "
                    f"an id that its tokenizer of {vocab_size} pieces does not have, or "
                    "does not have the length of its sentences; prepare the dataset "
                    "again."
                )
        yield (
            np.concatenate([record["tokens"] for record in block]),
            np.concatenate([record["sentence_lengths"] for record in block]),
            np.array([record["sentence_lengths"].size for record in block]),
        )
