"""Makes the directory of a tokenizer, from a text source or from a given vocabulary.

Each function writes a whole directory or none. It does nothing if the directory holds
its result already.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bert_jax.config import TokenizerOptions
from bert_jax.data.source_description import describe_sources
from bert_jax.data.text.documents import ReadStats, refuse_broken, source_counts
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sections import Source
from bert_jax.data.text.sentences import sentences
from bert_jax.data.text.sources import open_source
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import METADATA_FILE, Tokenizer
from bert_jax.data.tokenizers.vocabulary import (
    train_byte_bpe,
    train_sentencepiece,
    train_wordpiece,
)
from bert_jax.data.whole_directory import whole_directory

TRAINING_FILE = "bert_jax_tokenizer_training.json"
# The key in that file for what was read; it is no setting.
_READ = "read_from_sources"

Progress = Callable[[int, int], None]


class MadeTokenizer(NamedTuple):
    """A tokenizer in its directory."""

    tokenizer: Tokenizer
    directory: pathlib.Path
    is_new: bool
    read: Sequence[str] = ()
    """What was read of each source, in a line each."""

    def describe(self) -> list[str]:
        """What was read, the directory, its size and hash, and what its rules lose."""
        lines = [
            *self.read,
            f"{self.directory} {'written' if self.is_new else 'is there already'}: "
            f"{self.tokenizer.vocab_size:,} pieces, sha256 {self.tokenizer.sha256[:16]}",
        ]
        if self.tokenizer.normalization.get("strip_accents"):
            lines.append(
                "It removes accents and vowel signs, as BERT's uncased vocabularies do. "
                "Words that differ in nothing else become the same, for example schön "
                "and schon, or में and म."
            )
        return lines


def train_tokenizer(
    source: str | Sequence[str],
    output: pathlib.Path,
    options: TokenizerOptions,
    progress: Progress | None = None,
) -> MadeTokenizer:
    """Trains a vocabulary on a source and saves it.

    Args:
        source: where the text is, one or more names as `open_source` takes them.
        output: directory of the tokenizer; one that was trained with the same settings
            is read and left as it is.
        options: everything else that decides the vocabulary.
        progress: called with (bytes of the source read, bytes to read in all). Both are
            equal in the last call, when training begins.

    Raises:
        ValueError: `output` holds something else, or the text cannot support the
            vocabulary.
    """
    opened = open_source(source, num_workers=options.num_threads)
    files = "\n".join(opened.files()).encode()
    settings = {
        "source": list(opened.specs),
        "source_bytes": opened.size_bytes,
        "source_files": f"{len(opened.sections)} of hash {_short_hash(files)}",
        **dataclasses.asdict(options),
    }
    if (output / METADATA_FILE).exists():
        read = _check_settings(output, settings)
        return MadeTokenizer(load_tokenizer(output), output, is_new=False, read=read)
    with whole_directory(output, overwrite=False) as partial:
        stats = [ReadStats() for _ in opened.specs]
        lines = _sentences(
            opened, stats, options, progress or (lambda done, total: None)
        )
        tokenizer = _train(lines, options)
        read = describe_sources(source_counts(opened, stats), opened.num_repeated)
        tokenizer.save(partial)
        text = json.dumps({**settings, _READ: read}, indent=2) + "\n"
        (partial / TRAINING_FILE).write_text(text, encoding="utf-8")
    return MadeTokenizer(tokenizer, output, is_new=True, read=read)


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def wrap(tokenizer: Tokenizer, output: pathlib.Path) -> MadeTokenizer:
    """Saves a given tokenizer; if `output` holds the same, it is left as it is.

    Raises:
        ValueError: `output` holds something else.
    """
    if (output / METADATA_FILE).exists():
        if load_tokenizer(output).sha256 != tokenizer.sha256:
            raise ValueError(
                f"{output} holds a tokenizer of another vocabulary or other rules; "
                "choose another --output."
            )
        return MadeTokenizer(tokenizer, output, is_new=False)
    with whole_directory(output, overwrite=False) as partial:
        tokenizer.save(partial)
    return MadeTokenizer(tokenizer, output, is_new=True)


def _check_settings(output: pathlib.Path, settings: dict[str, Any]) -> list[str]:
    """Raises ValueError for other settings; returns what was read under these."""
    path = output / TRAINING_FILE
    if not path.is_file():
        raise ValueError(
            f"{output} holds a tokenizer that this command did not train; choose "
            "another --output."
        )
    before = json.loads(path.read_text(encoding="utf-8"))
    read: list[str] = before.pop(_READ, [])
    differs = sorted(
        name for name in {*before, *settings} if before.get(name) != settings.get(name)
    )
    if differs:
        changes = ", ".join(
            f"{name} is {before.get(name)!r} there and {settings.get(name)!r} here"
            for name in differs
        )
        raise ValueError(
            f"{output} holds a tokenizer of other settings: {changes}; delete it or "
            "choose another --output."
        )
    return read


def _sentences(
    source: Source,
    stats: Sequence[ReadStats],
    options: TokenizerOptions,
    progress: Progress,
) -> Iterator[str]:
    """The sentences of all sections; `stats` counts what is read, one a source."""
    done = 0
    for section in source.sections:
        counted = stats[section.source]
        before = counted.disk_bytes
        for document in read_section(section, counted, options.read):
            yield from sentences(document, options.language)
            read = done + counted.disk_bytes - before
            progress(min(read, source.size_bytes - 1), source.size_bytes)
        done += section.size_bytes
    refuse_broken(source, stats, options.read)
    progress(source.size_bytes, source.size_bytes)


def _train(lines: Iterator[str], options: TokenizerOptions) -> Tokenizer:
    common: dict[str, Any] = {
        "vocab_size": options.vocab_size,
        "lowercase": options.lowercase,
        "max_sentences": options.max_sentences,
        "max_bytes": options.max_bytes,
    }
    if options.kind == "wordpiece":
        return train_wordpiece(lines, strip_accents=options.strip_accents, **common)
    if options.kind == "byte-bpe":
        return train_byte_bpe(lines, **common)
    threads = options.num_threads
    return train_sentencepiece(
        lines, model_type=options.kind, num_threads=threads, **common
    )
