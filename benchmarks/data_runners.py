"""What `benchmarks.data` measures: ways of tokenising, preparing and loading, one class each.

Ours stand beside `tokenizers`, `sentencepiece`, `datasets` and the masking collator of
`transformers`, each used in the fastest way that its documentation offers. Every class is
a `turns.Runner`, so each lives in a process of its own.
"""

import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.prepare import prepare
from bert_jax.data.text.reading import read_unit
from bert_jax.data.text.sentences import sentences
from bert_jax.data.text.sources import open_source
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer

LENGTH = 512
"""Tokens of the loaders' rows."""
_BATCH_SIZE = 64
_BATCHES_A_TURN = {"ours": 600, "collator": 60}
# After so many batches, the buffers that filled while nobody read are used up.
_WARM_UP_BATCHES = 24
# As in bert_jax: with the 100 of `tokenizers`, a few ids of long words would differ.
_MAX_CHARS_PER_WORD = 200


def write_sample(source: str, path: pathlib.Path, num_bytes: int) -> int:
    """Writes the first documents of a source as JSONL; returns the bytes of their text.

    Neighbouring documents share their words, as they do where a shard is prepared.
    """
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for unit in open_source(source).units:
            for document in read_unit(unit):
                file.write(json.dumps({"text": document.text}) + "\n")
                total += len(document.text.encode())
                if total >= num_bytes:
                    return total
    return total


def read_parts(sample: pathlib.Path, num_parts: int = 1) -> list[list[str]]:
    """The texts of a sample, dealt out to so many parts in turn."""
    lines = sample.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return [texts[number::num_parts] for number in range(num_parts)]


class Tokenize:
    """Encodes one part of the sample in each turn: text that it has not seen before.

    A cache of words is so worth what it is worth while a corpus goes by.
    """

    facts = None

    def __init__(self, way: str, tokenizer: str, sample: str, num_parts: int) -> None:
        """Loads the tokenizer and the texts.

        Args:
            way: "ours" (sentence by sentence, as `prepare` does), "bare, sentences" or
                "bare, documents" (the library alone, over the same vocabulary).
            tokenizer: directory of a saved tokenizer.
            sample: file of `write_sample`.
            num_parts: turns there will be.
        """
        self._parts = read_parts(pathlib.Path(sample), num_parts)
        self._units: list[list[Any]] = self._parts
        if way != "bare, documents":
            self._units = [[sentences(text) for text in part] for part in self._parts]
        self._encode: Callable[[Sequence[Any]], int]
        if way == "ours":
            ours = load_tokenizer(pathlib.Path(tokenizer))
            self._encode = lambda documents: sum(
                ours.encode_joined(cut)[0].size for cut in documents if cut
            )
        else:
            bare = bare_tokenizer(pathlib.Path(tokenizer))
            if way == "bare, documents":
                self._encode = lambda texts: sum(map(len, bare(list(texts))))
            else:
                self._encode = lambda documents: sum(
                    len(ids) for cut in documents for ids in bare(cut)
                )

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        started = time.perf_counter()
        tokens = self._encode(self._units[number])
        elapsed = time.perf_counter() - started
        num_bytes = sum(len(text.encode()) for text in self._parts[number])
        return {"seconds": elapsed, "bytes": num_bytes, "tokens": tokens}


class Prepare:
    """Makes a prepared dataset of a source, in a fresh folder each turn."""

    facts = None

    def __init__(
        self, source: str, tokenizer: str, output: str, num_workers: int
    ) -> None:
        """Imports what `prepare` needs, which is not measured.

        Args:
            source: as `prepare` takes it.
            tokenizer: directory of a saved tokenizer.
            output: the dataset of the last turn stays here.
            num_workers: processes.
        """
        import tensorflow_datasets  # noqa: F401

        self._source, self._tokenizer = source, pathlib.Path(tokenizer)
        self._output, self._num_workers = pathlib.Path(output), num_workers

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
        files = (path for path in self._output.rglob("*") if path.is_file())
        stored = sum(path.stat().st_size for path in files)
        return {
            "seconds": elapsed,
            "bytes": num_bytes,
            "tokens": tokens,
            "stored": stored / tokens,
        }


class PrepareWithDatasets:
    """Tokenises and groups the sample into blocks with `datasets`, in one process."""

    facts = None

    def __init__(self, tokenizer: str, sample: str, folder: str) -> None:
        """Imports the libraries, which is not measured.

        Args:
            tokenizer: directory of a saved WordPiece tokenizer.
            sample: file of `write_sample`.
            folder: its Arrow files lie below this folder.
        """
        import datasets  # noqa: F401
        import transformers  # noqa: F401

        self._arguments = pathlib.Path(tokenizer), pathlib.Path(sample)
        self._folder = pathlib.Path(folder)
        (texts,) = read_parts(self._arguments[1])
        self._num_bytes = sum(len(text.encode()) for text in texts)

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        started = time.perf_counter()
        blocks = blocks_with_datasets(*self._arguments, self._folder / str(number))
        elapsed = time.perf_counter() - started
        tokens = len(blocks) * LENGTH
        files = (pathlib.Path(file["filename"]) for file in blocks.cache_files)
        stored = sum(path.stat().st_size for path in files)
        return {
            "seconds": elapsed,
            "bytes": self._num_bytes,
            "tokens": tokens,
            "stored": stored / tokens,
        }


class Load:
    """Real tokens in batches of packed rows, in host memory."""

    def __init__(self, dataset: str, num_workers: int) -> None:
        """Plans an epoch, which its facts describe, and starts the loader.

        Args:
            dataset: directory of a prepared dataset.
            num_workers: processes; 0 loads with threads of this process.
        """
        cfg = DataConfig(sequence_length=LENGTH, num_workers=num_workers)
        opened = open_dataset(pathlib.Path(dataset))
        store = opened.load_split("train")
        rows = open_rows(opened, "train", cfg, seed=0)
        started = time.perf_counter()
        size = rows.size(0)
        elapsed = time.perf_counter() - started
        self.facts = {
            "sentences_per_sec": (store.sentence_starts.size - 1) / elapsed,
            "density": size.num_tokens / size.num_places,
        }
        self._batches = train_batches(
            rows, batch_size=_BATCH_SIZE, first_step=0, num_steps=10**6
        )

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        for _ in range(_WARM_UP_BATCHES):
            next(self._batches)
        started, tokens = time.perf_counter(), 0
        for _ in range(_BATCHES_A_TURN["ours"]):
            tokens += int((next(self._batches).sequence_ids > 0).sum())
        return {"seconds": time.perf_counter() - started, "tokens": tokens}


class LoadWithCollator:
    """Masked batches from `datasets`, torch's DataLoader and the collator of `transformers`."""

    facts = None

    def __init__(
        self,
        tokenizer: str,
        sample: str,
        folder: str,
        tensors: str,
    ) -> None:
        """Makes the blocks that are loaded.

        Args:
            tokenizer, sample, folder: as of `PrepareWithDatasets`.
            tensors: "pt", the collator's default, or "np".
        """
        import torch
        from transformers import DataCollatorForLanguageModeling

        wordpiece = pathlib.Path(tokenizer)
        blocks = blocks_with_datasets(
            wordpiece, pathlib.Path(sample), pathlib.Path(folder)
        )
        collator = DataCollatorForLanguageModeling(
            transformers_tokenizer(wordpiece), return_tensors=tensors
        )
        self._loader = torch.utils.data.DataLoader(
            blocks, batch_size=_BATCH_SIZE, shuffle=True, collate_fn=collator
        )

    def turn(self, number: int, seconds: float) -> dict[str, float]:
        started, tokens = time.perf_counter(), 0
        for batch in itertools.islice(self._loader, _BATCHES_A_TURN["collator"]):
            tokens += int(np.asarray(batch["attention_mask"]).sum())
        return {"seconds": time.perf_counter() - started, "tokens": tokens}


def bare_tokenizer(directory: pathlib.Path) -> Callable[[list[str]], list[list[int]]]:
    """The library's own call over the vocabulary of a saved tokenizer of ours."""
    ours = load_tokenizer(directory)
    model = directory / ours.model_file
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
    """A `tokenizers.Tokenizer` with BERT's uncased rules and no special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = vocab.read_text(encoding="utf-8").split("\n")
    ids = {piece: number for number, piece in enumerate(pieces) if piece}
    bare = Tokenizer(
        models.WordPiece(
            ids, unk_token="[UNK]", max_input_chars_per_word=_MAX_CHARS_PER_WORD
        )
    )
    bare.normalizer = normalizers.BertNormalizer(lowercase=True)
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return bare


def transformers_tokenizer(directory: pathlib.Path) -> Any:
    """The fast tokenizer of `transformers` over a saved WordPiece one, with [CLS] and [SEP]."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    bare = bare_wordpiece(directory / load_tokenizer(directory).model_file)
    cls, sep = (bare.token_to_id(piece) for piece in ("[CLS]", "[SEP]"))
    bare.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    special = {
        f"{name.lower()}_token": f"[{name}]"
        for name in ("PAD", "UNK", "CLS", "SEP", "MASK")
    }
    return PreTrainedTokenizerFast(tokenizer_object=bare, **special)


def blocks_with_datasets(
    tokenizer: pathlib.Path,
    sample: pathlib.Path,
    folder: pathlib.Path,
) -> Any:
    """Tokenises and groups a sample into blocks of `LENGTH`, in one process and one pass.

    Args:
        tokenizer: directory of a saved WordPiece tokenizer.
        sample: file of `write_sample`.
        folder: where `datasets` keeps its Arrow files.

    Returns:
        A `datasets.Dataset`, memory-mapped. The tokens that are left over of every
        thousand documents are dropped.
    """
    import datasets

    fast = transformers_tokenizer(tokenizer)
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
        "json", data_files=str(sample), cache_dir=str(folder), split="train"
    )
    return rows.map(group, batched=True, remove_columns=rows.column_names)
