"""Sentences with a tag for each word: files in CoNLL's form to examples, to rows.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.batch import IGNORED_LABEL
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    RowBuilder,
    require_file,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# What CoNLL's files put between documents instead of a sentence.
_DOCUMENT = "-DOCSTART-"


@dataclasses.dataclass(frozen=True)
class TaggedSentences(Examples):
    """Sentences in file order, cut into words."""

    words: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[str, ...], ...] | None
    """One for each word; `None` where the tags are to be found out."""

    def __len__(self) -> int:
        return len(self.words)

    def records(self) -> Iterator[object]:
        for number, words in enumerate(self.words):
            yield [words, None if self.tags is None else self.tags[number]]

    def take(self, numbers: np.ndarray) -> "TaggedSentences":
        tags = self.tags
        return TaggedSentences(
            tuple(self.words[n] for n in numbers),
            None if tags is None else tuple(tags[n] for n in numbers),
        )


def read_tagged_sentences(path: pathlib.Path | None) -> TaggedSentences:
    """Reads a word a line with its tag in the last column, a blank line between sentences.

    Columns are separated by tabs or blanks; those between word and tag are not read.

    Raises:
        ValueError: no path, an unknown kind, not UTF-8, a word without tag (line named),
            or no sentence.
        FileNotFoundError: nothing is there.
    """
    path = require_file(path, (".conll", ".txt", ".tsv", ".iob", ".bio"))
    words: list[tuple[str, ...]] = []
    tags: list[tuple[str, ...]] = []
    sentence: list[tuple[str, str]] = []

    def end_sentence() -> None:
        if sentence:
            words.append(tuple(word for word, _ in sentence))
            tags.append(tuple(tag for _, tag in sentence))
            sentence.clear()

    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                columns = line.split()
                if not columns or columns[0] == _DOCUMENT:
                    end_sentence()
                elif len(columns) == 1:
                    raise ValueError(
                        f"{path}, line {number}: {columns[0]!r} has no tag; a line "
                        "holds a word and, in its last column, the tag of the word."
                    )
                else:
                    sentence.append((columns[0], columns[-1]))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error}); convert it, e.g. with iconv."
        ) from None
    end_sentence()
    if not words:
        raise ValueError(
            f"{path} holds no sentence; expected a word and its tag a line."
        )
    return TaggedSentences(tuple(words), tuple(tags))


def tag_names(examples: TaggedSentences) -> tuple[str, ...]:
    """The distinct tags, sorted; their order is the order of the logits.

    Raises:
        ValueError: fewer than two.
    """
    names = tuple(sorted({tag for tags in examples.tags or () for tag in tags}))
    if len(names) < 2:
        raise ValueError(
            f"The training file has one tag only, {names[0]!r}; tagging needs two or "
            "more."
        )
    return names


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
    number_of = {name: number for number, name in enumerate(names)}
    for tags in examples.tags or ():
        for tag in tags:
            if tag not in number_of:
                raise ValueError(
                    f"Tag {tag!r} does not occur in the training file, whose tags are "
                    f"{', '.join(names)}; remove such sentences or add training examples."
                )
    room = sequence_length - 2
    plan = list(_rows(tokenizer, examples, room))
    rows = RowBuilder(tokenizer.special, len(plan), sequence_length)
    shape = (len(plan), sequence_length)
    labels_BT = np.full(shape, IGNORED_LABEL, np.int32)
    word_BT = np.full(shape, -1, np.int32)
    for row, (sentence, first, pieces) in enumerate(plan):
        [place] = rows.put(row, [[piece for word in pieces for piece in word]])
        for word, of_word in enumerate(pieces, first):
            word_BT[row, place] = word
            if examples.tags is not None:
                labels_BT[row, place] = number_of[examples.tags[sentence][word]]
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
