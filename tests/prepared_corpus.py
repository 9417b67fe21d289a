"""A small corpus with groups, its tokenizer, and how the tests prepare and copy it."""

import json
import pathlib
import shutil

import numpy as np
from small_tokenizers import wordpiece

from bert_jax.config import PrepareOptions
from bert_jax.data.prepared.prepare import prepare
from bert_jax.data.text.sentences import sentences
from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

NUM_FILES = 4
FRACTION = 0.3
WORDS = ("river", "stone", "window", "garden", "teacher", "letter", "village", "music")


def write_corpus(folder: pathlib.Path) -> list[dict]:
    """Files of 15 documents; three documents, in different files, share a group."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(NUM_FILES):
        lines = []
        for n in range(15):
            text = []
            for _ in range(rng.integers(1, 12)):
                words = rng.choice(WORDS, rng.integers(2, 9))
                endings = rng.choice(["", "s", "ed", "ing"], words.size)
                words = map("".join, zip(words, endings, strict=True))
                text.append(" ".join(words).capitalize() + ".")
            key = f"{number}/{n}"
            group = f"group {(number * 15 + n) % 20}"
            lines.append({"text": " ".join(text), "key": key, "group": group})
        if number == 1:
            # A zero-width space: text, but no token.
            lines.append({"text": "\u200b", "key": "nothing", "group": "nothing"})
        file = folder / f"part-{number}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        records += lines
    return records


def make_corpus(folder: pathlib.Path) -> tuple[str, list[dict], pathlib.Path]:
    """(source, its records, a directory with a tokenizer of it)."""
    records = write_corpus(folder)
    lines = [x for record in records for x in sentences(record["text"])]
    tokenizer = train_sentencepiece(lines, vocab_size=44, lowercase=True)
    tokenizer.save(folder / "tokenizer")
    return f"files:{folder}/*.jsonl", records, folder / "tokenizer"


def prepared(corpus, output, *, num_workers=1, progress=None, **settings):
    source, _, tokenizer = corpus
    return prepare(
        source,
        tokenizer,
        output,
        PrepareOptions(**{"validation_fraction": FRACTION} | settings),
        num_workers=num_workers,
        progress=progress,
    )


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    """Every file of a dataset but what is laid out beside it for training."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in files
        if path.relative_to(directory).parts[0] != "index"
    }


def copy_of(dataset: pathlib.Path, parent: pathlib.Path) -> pathlib.Path:
    """A copy to damage."""
    copy = parent / "dataset"
    shutil.copytree(dataset, copy, ignore=shutil.ignore_patterns("index"))
    return copy


def other_tokenizer() -> WordPieceTokenizer:
    return wordpiece(*WORDS)
