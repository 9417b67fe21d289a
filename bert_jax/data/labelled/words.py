"""Sentences with a tag for each word: labelled files to examples, and texts to words."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from bert_jax.config import FileConfig
from bert_jax.config.checks import require_used
from bert_jax.data.labelled import word_columns, word_tables
from bert_jax.data.labelled.examples import Examples, Reading, require_file
from bert_jax.data.labelled.tables import read_table
from bert_jax.data.labelled.tags import entities, odd_tags, style_of
from bert_jax.data.labelled.unlabelled import (
    Unlabelled,
    ids_of,
    read_lines,
    read_unlabelled,
)
from bert_jax.data.labelled.word_places import places_of_words

Place = tuple[int, int]  # first character, and the one behind the last
SUFFIXES = (*word_columns.SUFFIXES, *word_tables.SUFFIXES)


class GivenWords(str):
    """A text whose words are known: they are joined with a blank between two."""

    places: tuple[Place, ...]

    def __new__(cls, words: Sequence[str]) -> Self:
        text = super().__new__(cls, " ".join(words))
        ends = itertools.accumulate(
            words, lambda end, word: end + 1 + len(word), initial=-1
        )
        starts = (end + 1 for end in ends)
        text.places = tuple(
            (start, start + len(word))
            for start, word in zip(starts, words, strict=False)
        )
        return text


class Sentence(NamedTuple):
    text: str
    places: Sequence[Place]
    """Where each word is in the text."""


@dataclasses.dataclass(frozen=True)
class TaggedSentences(Examples):
    """Sentences in file order, cut into words."""

    words: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[str, ...], ...] | None
    """One for each word; `None` where the tags are to be found out."""
    texts: tuple[str, ...] | None = dataclasses.field(default=None, compare=False)
    """What the words were found in; `None` where the file gives words."""
    reading: Reading = dataclasses.field(default=Reading(), compare=False)

    def records(self) -> Iterator[object]:
        for number, words in enumerate(self.words):
            yield [words, None if self.tags is None else self.tags[number]]

    def shown(self) -> Iterator[tuple[str, str]]:
        tags = self.tags or ()
        style = style_of(tag for of_words in tags for tag in of_words)
        for words, of_words in zip(self.words, tags, strict=True):
            marked = (
                f"{x.kind} {' '.join(words[x.first : x.last + 1])!r}"
                for x in entities(of_words, style)
            )
            yield " ".join(words), ", ".join(marked) or "no entity"

    def place_of_word(self, number: int) -> str:
        """Where a word stands, counted over all sentences, for messages."""
        for sentence, words in enumerate(self.words, 1):
            if number < len(words):
                where = f"sentence {sentence:,}, word {number + 1} ({words[number]!r})"
                return f"{self.reading.path}, {where}" if self.reading.path else where
            number -= len(words)
        raise IndexError(number)

    def sentence(self, number: int) -> Sentence:
        """A sentence as text, and where its words are in it."""
        text = (
            GivenWords(self.words[number]) if self.texts is None else self.texts[number]
        )
        return Sentence(text, _places(text))


def split_texts(texts: Sequence[str]) -> TaggedSentences:
    """Sentences without tags. A text that is no `GivenWords` is cut by a rule.

    The rule is that of `places_of_words`: punctuation stands alone.
    """
    words = tuple(
        tuple(text[start:end] for start, end in _places(text)) for text in texts
    )
    return TaggedSentences(words, None, tuple(texts))


def _places(text: str) -> Sequence[Place]:
    return text.places if isinstance(text, GivenWords) else places_of_words(text)


def read_tagged_sentences(
    path: pathlib.Path | None, cfg: FileConfig
) -> TaggedSentences:
    """Reads a file of words in columns, or a table with a list of words and of tags a row.

    Raises:
        ValueError: no path, an unknown kind, another encoding, a word without tag (line
            named), a tag that is none of BIO where others are, or no sentence.
        FileNotFoundError: nothing is there.
    """
    path = require_file(path, SUFFIXES)
    is_table = path.suffix.lower() in word_tables.SUFFIXES
    form = word_tables if is_table else word_columns
    rows: word_columns.TaggedRows = form.tagged_rows(path, cfg)
    if not rows.words:
        raise ValueError(f"{path} holds no sentence; expected {form.EXPECTED}.")
    reading = Reading(str(path), rows.how, warnings=rows.warnings)
    found = TaggedSentences(tuple(rows.words), tuple(rows.tags), reading=reading)
    every = [tag for tags in rows.tags for tag in tags]
    if odd := odd_tags(every):
        number = next(number for number, tag in enumerate(every) if tag in odd)
        raise ValueError(
            f"{found.place_of_word(number)}: the tag {every[number]!r} has no letter of "
            "BIO, IOB1, BIOES or BILOU, which other tags of the file have; mend the file, "
            "or set --label to the column of the tags. A word outside of entities has O."
        )
    return found


def read_words(path: pathlib.Path, cfg: FileConfig, tags: Sequence[str]) -> Unlabelled:
    """Reads sentences to tag: words as in labelled files, with tags or without, or texts.

    A table without a column of words, and each .csv, holds texts. A .txt holds a text a
    line, unless each of its lines ends with one of the `tags`.

    Raises:
        ValueError, FileNotFoundError: as for `read_tagged_sentences`.
    """
    path = require_file(path, (*SUFFIXES, ".csv"))
    kind = path.suffix.lower()
    if kind in (*word_tables.SUFFIXES, ".csv"):
        table = read_table(path, cfg)
        column = word_tables.word_column(table, cfg) if kind != ".csv" else None
        if column is None:
            return read_unlabelled(path, cfg)
        _refuse_label(cfg)
        found = word_tables.words_of(table, column)
        how, warnings = f"{table.how}; words from {column!r}", table.warnings
        ids = ids_of(table)
    else:
        _refuse_label(cfg)
        rows = word_columns.rows(path, cfg)
        if kind == ".txt" and not rows.all_end_with(tags):
            return read_lines(path, cfg)
        if odd := rows.odd_line("#") or rows.untagged_line("#", tags):
            raise ValueError(
                f"{path}, {odd}. Take the line out if it is a comment and no word."
            )
        found, how, warnings, ids = rows.words(), rows.how, rows.warnings, None
    if not found:
        raise ValueError(f"{path} holds no sentence; expected a word a line.")
    texts = [(GivenWords(words),) for words in found]
    return Unlabelled(texts, ids, how=how, warnings=warnings)


def _refuse_label(cfg: FileConfig) -> None:
    require_used(cfg, False, "the tags of words are not read. Leave it out.", "label")
