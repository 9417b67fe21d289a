"""Sentences with a tag for each word: files in CoNLL's form to examples, to rows.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.batch import IGNORED_LABEL
from bert_jax.config import FileConfig
from bert_jax.data.labelled.decoding import read_text
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    Reading,
    RowBuilder,
    require_file,
)
from bert_jax.data.labelled.labels import numbers_of
from bert_jax.data.labelled.unlabelled import Unlabelled, read_lines
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# What CoNLL's files put between documents instead of a sentence.
_DOCUMENT = "-DOCSTART-"
# Such as "# text = ..." in CoNLL-U.
_COMMENT = re.compile(r"# [\w.:]+ = ")
SUFFIXES = (".conll", ".txt", ".tsv", ".iob", ".bio")


@dataclasses.dataclass(frozen=True)
class TaggedSentences(Examples):
    """Sentences in file order, cut into words."""

    words: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[str, ...], ...] | None
    """One for each word; `None` where the tags are to be found out."""
    reading: Reading = dataclasses.field(default=Reading(), compare=False)

    def __len__(self) -> int:
        return len(self.words)

    def records(self) -> Iterator[object]:
        for number, words in enumerate(self.words):
            yield [words, None if self.tags is None else self.tags[number]]

    def take(self, numbers: np.ndarray) -> "TaggedSentences":
        tags = self.tags
        return dataclasses.replace(
            self,
            words=tuple(self.words[n] for n in numbers),
            tags=None if tags is None else tuple(tags[n] for n in numbers),
        )


def read_tagged_sentences(
    path: pathlib.Path | None, encoding: str = "utf-8"
) -> TaggedSentences:
    """Reads a word a line with its tag in the last column, a blank line between sentences.

    Columns are separated by tabs, or by blanks in lines without tabs; those between word
    and tag are not read. Comments such as `# text = ...` are left out.

    Raises:
        ValueError: no path, an unknown kind, another encoding, a word without tag (line
            named), or no sentence.
        FileNotFoundError: nothing is there.
    """
    path = require_file(path, SUFFIXES)
    decoded = read_text(path, encoding)
    words: list[tuple[str, ...]] = []
    tags: list[tuple[str, ...]] = []
    for sentence in _sentences(decoded.text):
        for number, columns in sentence:
            if len(columns) == 1 or not columns[0]:
                raise ValueError(
                    f"{path}, line {number}: {columns[-1]!r} has no tag, or is a tag "
                    "without a word; a line holds a word and, in its last column, its tag."
                )
        words.append(tuple(columns[0] for _, columns in sentence))
        tags.append(tuple(columns[-1] for _, columns in sentence))
    if not words:
        raise ValueError(
            f"{path} holds no sentence; expected a word and its tag a line."
        )
    how = f"{decoded.encoding}, a word a line, its tag in the last column"
    reading = Reading(str(path), how, warnings=decoded.warnings)
    return TaggedSentences(tuple(words), tuple(tags), reading)


def read_words(path: pathlib.Path, cfg: FileConfig, tags: Sequence[str]) -> Unlabelled:
    """Reads sentences to tag, from a word a line (tagged or not) or a sentence a line.

    A .txt holds a sentence a line, unless each of its words has one of the `tags` behind
    it. Every other file holds a word a line.

    Raises:
        ValueError, FileNotFoundError: as for `read_tagged_sentences`.
    """
    path = require_file(path, SUFFIXES)
    decoded = read_text(path, cfg.encoding)
    sentences = list(_sentences(decoded.text))
    lines = [columns for sentence in sentences for _, columns in sentence]
    tagged = bool(lines) and all(len(x) > 1 and x[-1] in tags for x in lines)
    if path.suffix.lower() == ".txt" and not tagged:
        return read_lines(path, cfg)
    if not sentences:
        raise ValueError(f"{path} holds no sentence; expected a word a line.")
    texts = [(" ".join(columns[0] for _, columns in x),) for x in sentences]
    how = f"{decoded.encoding}, a word a line"
    return Unlabelled(texts, how=how, warnings=decoded.warnings)


def _sentences(text: str) -> Iterator[list[tuple[int, list[str]]]]:
    """For each sentence: the columns of its lines, and the numbers of the lines."""
    sentence: list[tuple[int, list[str]]] = []
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        line = line.rstrip()
        columns = line.split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns]
        comment = _COMMENT.match(line)
        if comment or not any(columns) or columns[0] == _DOCUMENT:
            if sentence and not comment:
                yield sentence
                sentence = []
        else:
            sentence.append((number, columns))
    if sentence:
        yield sentence


def encode_words(
    tokenizer: Tokenizer,
    examples: TaggedSentences,
    names: Sequence[str],
    sequence_length: int,
) -> EncodedExamples:
    """`[CLS] words [SEP]`; a sentence that is too long goes on in the next row.

    The first piece of a word bears its label, other tokens `IGNORED_LABEL`. A word of
    which the tokenizer leaves nothing becomes [UNK], and one that is longer than a row
    is cut, so that every word has a label. Labels are int32 [rows, T].

    Args:
        names: the tags, in the order of the logits.

    Raises:
        ValueError: a tag is not among `names`.

    Source: Devlin et al. 2018, section 5.3.
    """
    every = [tag for tags in examples.tags or () for tag in tags]
    labels = iter(numbers_of(every, names, "tag"))
    room = sequence_length - 2
    plan = list(_rows(tokenizer, examples, room))
    rows = RowBuilder(tokenizer.special, len(plan), sequence_length)
    shape = (len(plan), sequence_length)
    labels_BT = np.full(shape, IGNORED_LABEL, np.int32)
    word_BT = np.full(shape, -1, np.int32)
    for row, (_, first, pieces) in enumerate(plan):
        [place] = rows.put(row, [[piece for word in pieces for piece in word]])
        for word, of_word in enumerate(pieces, first):
            word_BT[row, place] = word
            if examples.tags is not None:
                labels_BT[row, place] = next(labels)
            place += len(of_word)
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=labels_BT,
        example=np.array([sentence for sentence, *_ in plan], np.int32),
        word=word_BT,
    )


def _rows(
    tokenizer: Tokenizer, examples: TaggedSentences, room: int
) -> Iterator[tuple[int, int, list[list[int]]]]:
    """For each row: its sentence, the number of its first word, the pieces of its words."""
    encoded = iter(tokenizer.encode([word for s in examples.words for word in s]))
    for sentence, words in enumerate(examples.words):
        first, used = 0, 0
        row: list[list[int]] = []
        for word in range(len(words)):
            pieces = (next(encoded) or [tokenizer.special.unk])[:room]
            if row and used + len(pieces) > room:
                yield sentence, first, row
                first, used, row = word, 0, []
            row.append(pieces)
            used += len(pieces)
        yield sentence, first, row
