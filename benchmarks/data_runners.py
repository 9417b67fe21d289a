"""What `benchmarks.data` measures: ways of tokenising, preparing and loading, one class each.

Ours stand beside `tokenizers`, `sentencepiece`, `datasets` and the masking collator of
`transformers`, each used in the fastest way that its documentation offers. Every class is a
`turns.Runner`, so each lives in a process of its own. All of them take `folder`, which holds
the file of `write_sample` and whatever they write, and `tokenizer`, the directory of a saved
tokenizer.
"""

import gc
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.hashes import file_sha256
from bert_jax.data.prepared.audit import ShardAudit
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.fingerprints import Fingerprints
from bert_jax.data.prepared.pool import NEW_OBJECTS
from bert_jax.data.prepared.prepare import prepare
from bert_jax.data.prepared.records import encode_sentences, serialize, tokenize
from bert_jax.data.prepared.shards import in_groups, open_writer
from bert_jax.data.text.reading import read_source
from bert_jax.data.text.sentences import sentences
from bert_jax.data.text.sources import open_source
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer

STAGES = ("reading", "sentences", "encoding", "records", "audit and hashes")
"""The work of `prepare` on a document, in its order."""
LENGTH = 512
"""Tokens of the loaders' rows."""
_BATCH_SIZE = 64
# After so many batches, the buffers that filled while nobody read are used up.
_WARM_UP_BATCHES = 24
_SAMPLE = "sample.jsonl"


def write_sample(source: str, path: pathlib.Path, num_bytes: int) -> None:
    """Writes the first documents of a source as JSONL, with so many bytes of text.

    Neighbouring documents share their words, as they do where a shard is prepared.
    """
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for document in read_source(open_source(source)):
            file.write(json.dumps({"text": document.text}) + "\n")
            total += len(document.text.encode())
            if total >= num_bytes:
                return


def read_parts(folder: pathlib.Path, num_parts: int = 1) -> list[list[str]]:
    """The texts of the sample, dealt out to so many parts."""
    lines = (folder / _SAMPLE).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return [texts[number::num_parts] for number in range(num_parts)]


def num_bytes_of(texts: Sequence[str]) -> int:
    """Bytes of texts in UTF-8."""
    return sum(len(text.encode()) for text in texts)


class Tokenize:
    """Encodes one part of the sample in each turn: text that it has not seen before.

    A library's cache of words is then worth what it is worth while a corpus goes by.
    """

    def __init__(
        self, folder: pathlib.Path, tokenizer: pathlib.Path, way: str, num_parts: int
    ) -> None:
        """Loads the tokenizer, and the texts in a part for each turn.

        The way is "ours" (sentence by sentence, as `prepare` does), or "bare" (whole
        documents, the library alone over the same vocabulary).
        """
        self._parts = read_parts(folder, num_parts)
        self._units: list[list[Any]] = self._parts
        if way == "ours":
            self._units = [[sentences(text) for text in part] for part in self._parts]
        ours, bare = load_tokenizer(tokenizer), bare_tokenizer(tokenizer)

        def join(documents: list[list[str]]) -> int:
            return sum(ours.encode_joined(cut)[0].size for cut in documents if cut)

        self._encode: Callable[[Any], int] = join
        if way == "bare":
            self._encode = lambda texts: sum(map(len, bare(texts)))

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        started = time.perf_counter()
        tokens = self._encode(self._units[number])
        elapsed = time.perf_counter() - started
        num_bytes = num_bytes_of(self._parts[number])
        return {"seconds": elapsed, "bytes": num_bytes, "tokens": tokens}


class Prepare:
    """Makes a prepared dataset of the sample, in a fresh folder each turn."""

    def __init__(
        self, folder: pathlib.Path, tokenizer: pathlib.Path, num_workers: int
    ) -> None:
        """Imports what `prepare` needs, which is not measured."""
        import tensorflow_datasets  # noqa: F401

        self._source, self._tokenizer = f"files:{folder / _SAMPLE}", tokenizer
        self._output = folder / f"dataset-{tokenizer.name}-{num_workers}"
        self._num_workers = num_workers

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        shutil.rmtree(self._output, ignore_errors=True)
        started = time.perf_counter()
        manifest = prepare(
            self._source, self._tokenizer, self._output, num_workers=self._num_workers
        )
        elapsed = time.perf_counter() - started
        num_bytes, tokens = (
            sum(split[name] for split in manifest["splits"].values())
            for name in ("bytes", "tokens")
        )
        return {"seconds": elapsed, "bytes": num_bytes, "tokens": tokens}


class PrepareInStages:
    """Does what a worker of `prepare` does for a shard, and times the stages apart."""

    def __init__(self, folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
        """Loads the tokenizer, and what the stages import when they are first called."""
        gc.set_threshold(NEW_OBJECTS)
        self._source = open_source(f"files:{folder / _SAMPLE}")
        self._tokenizer = load_tokenizer(tokenizer)
        self._records = folder / f"records-{tokenizer.name}"
        first = next(read_source(self._source))
        serialize(tokenize(self._tokenizer, [first], "en")[0])

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        spent = dict.fromkeys(STAGES, 0.0)

        def timed(stage: str, function: Callable[..., Any], *args: Any) -> list[Any]:
            began = time.perf_counter()
            result = list(map(function, *args))
            spent[stage] += time.perf_counter() - began
            return result

        audit = ShardAudit(self._tokenizer.vocab_size)
        fingerprints = Fingerprints(near=False)
        writer = open_writer(self._records)
        groups, num_bytes, num_tokens = in_groups(read_source(self._source)), 0, 0
        while found := timed("reading", lambda x: x, itertools.islice(groups, 1)):
            [some] = found
            utf8 = [document.utf8 for document in some]
            timed("audit and hashes", fingerprints.add, utf8)
            cut = timed("sentences", sentences, some)
            [records] = timed(
                "encoding", encode_sentences, [self._tokenizer], [some], [cut]
            )
            timed("audit and hashes", lambda x, y: audit.add(x, y, 0), some, records)
            timed("records", lambda x: writer.write(serialize(x)), records)
            num_bytes += sum(map(len, utf8))
            num_tokens += sum(record.tokens.size for record in records)
        timed("records", lambda x: x.close(), [writer])
        timed("audit and hashes", file_sha256, [self._records])
        total = sum(spent.values())
        return {"seconds": total, "bytes": num_bytes, "tokens": num_tokens, **spent}


class PrepareWithDatasets:
    """Tokenises and groups the sample into blocks with `datasets`, in one process."""

    def __init__(self, folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
        """Imports the libraries, which is not measured."""
        import datasets  # noqa: F401
        import transformers  # noqa: F401

        self._folder, self._tokenizer = folder, tokenizer
        (texts,) = read_parts(folder)
        self._num_bytes = num_bytes_of(texts)

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        started = time.perf_counter()
        blocks = make_blocks(self._folder, self._tokenizer, f"datasets-{number}")
        elapsed = time.perf_counter() - started
        tokens = len(blocks) * LENGTH
        return {"seconds": elapsed, "bytes": self._num_bytes, "tokens": tokens}


class Load:
    """Real tokens in batches of packed rows, in host memory."""

    def __init__(
        self, folder: pathlib.Path, tokenizer: pathlib.Path, num_workers: int
    ) -> None:
        """Plans an epoch, which is not measured, and starts the loader.

        The dataset is a copy of that of `Prepare` with one worker: loaders lock the plans
        beside a dataset, and one that is stopped must not hold up another. Without worker
        processes, the loader has threads of this one.
        """
        cfg = DataConfig(sequence_length=LENGTH, num_workers=num_workers)
        own = folder / f"loader-{num_workers}"
        shutil.copytree(folder / f"dataset-{tokenizer.name}-1", own)
        dataset = open_dataset(own)
        rows = open_rows(dataset, "train", cfg, seed=0)
        self._batches = train_batches(
            rows, batch_size=_BATCH_SIZE, first_step=0, num_steps=10**6
        )

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        for _ in range(_WARM_UP_BATCHES):
            next(self._batches)
        real = ((batch.sequence_ids > 0).sum() for batch in self._batches)
        return _summed(real, seconds)


class LoadWithCollator:
    """Masked batches from `datasets`, torch's DataLoader and the collator of `transformers`."""

    def __init__(self, folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
        """Makes the blocks. The collator has its NumPy mode, the faster one."""
        import torch
        from transformers import DataCollatorForLanguageModeling

        blocks = make_blocks(folder, tokenizer, "blocks")
        collator = DataCollatorForLanguageModeling(
            fast_tokenizer(tokenizer), return_tensors="np"
        )
        self._loader = torch.utils.data.DataLoader(
            blocks, batch_size=_BATCH_SIZE, shuffle=True, collate_fn=collator
        )

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        masks = (np.asarray(batch["attention_mask"]) for batch in self._loader)
        return _summed((mask.sum() for mask in masks), seconds)


def _summed(tokens: Iterator[Any], seconds: float) -> dict[str, float]:
    """The tokens of one batch after the other, until the time is over or there is none."""
    started, total = time.perf_counter(), 0
    for number in tokens:
        total += int(number)
        if time.perf_counter() - started > seconds:
            break
    return {"seconds": time.perf_counter() - started, "tokens": total}


def bare_tokenizer(directory: pathlib.Path) -> Callable[[list[str]], list[list[int]]]:
    """The library's own call over the vocabulary of a saved tokenizer of ours."""
    model = directory / load_tokenizer(directory).model_file
    if model.suffix == ".model":
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        return lambda texts: processor.encode(texts, num_threads=1)
    wordpiece = bare_wordpiece(model)

    def encode(texts: list[str]) -> list[list[int]]:
        encodings = wordpiece.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    return encode


def bare_wordpiece(vocab: pathlib.Path) -> Any:
    """A `tokenizers.Tokenizer` with BERT's uncased rules, [CLS] and [SEP]."""
    from tokenizers import BertWordPieceTokenizer

    return BertWordPieceTokenizer(str(vocab), lowercase=True)._tokenizer


def fast_tokenizer(directory: pathlib.Path) -> Any:
    """The fast tokenizer of `transformers` over a saved WordPiece one."""
    from transformers import PreTrainedTokenizerFast

    bare = bare_wordpiece(directory / load_tokenizer(directory).model_file)
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=bare, **special)


def make_blocks(folder: pathlib.Path, tokenizer: pathlib.Path, cache: str) -> Any:
    """Tokenises and groups the sample into blocks of `LENGTH`, in one process and one pass.

    Returns:
        A `datasets.Dataset`, memory-mapped from `cache` in the folder. The tokens that are
        left over of every thousand documents are dropped.
    """
    import datasets

    fast = fast_tokenizer(tokenizer)
    datasets.disable_progress_bars()

    def group(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = fast(
            batch["text"],
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        grouped = {}
        for name, column in encoded.items():
            flat = [entry for document in column for entry in document]
            ends = range(LENGTH, len(flat) + 1, LENGTH)
            grouped[name] = [flat[end - LENGTH : end] for end in ends]
        return grouped

    rows = datasets.load_dataset(
        "json",
        data_files=str(folder / _SAMPLE),
        cache_dir=str(folder / cache),
        split="train",
    )
    return rows.map(group, batched=True, remove_columns=rows.column_names)
