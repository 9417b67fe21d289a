"""Words in columns, one a line: the files of CoNLL's tasks, and CoNLL-U."""

import io
import pathlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from bert_jax.config import FileConfig
from bert_jax.data.labelled.decoding import read_text

SUFFIXES = (".conll", ".conllu", ".txt", ".tsv", ".iob", ".iob2", ".bio")
EXPECTED = "a word and its tag a line"
_CONLLU = (
    "id",
    "form",
    "lemma",
    "upos",
    "xpos",
    "feats",
    "head",
    "deprel",
    "deps",
    "misc",
)
# What CoNLL's files put between documents instead of a sentence.
DOCUMENT = "-DOCSTART-"
# Such as "# text = ...", "# newdoc id = ..." and "# newpar" in CoNLL-U.
_COMMENT = re.compile(r"# (new(doc|par) ?)?([\w.:]+ = |$)")
# Of CoNLL-U: a word; 1-2 are two words written as one, and 1.1 is one that is not written.
_NUMBER = re.compile(r"\d+([-.]\d+)?")


class TaggedRows(NamedTuple):
    words: list[tuple[str, ...]]
    """Of each sentence."""
    tags: list[tuple[str, ...]]
    how: str
    """How the file was read, in words."""
    warnings: tuple[str, ...] = ()


class Rows(NamedTuple):
    """The lines of a file, cut into columns and grouped into sentences."""

    sentences: list[list[tuple[int, list[str]]]]
    """For each line: its number, counted from 1, and its columns."""
    word: int
    """The column of the word, counted from 0."""
    how: str
    warnings: tuple[str, ...]
    conllu: bool

    def words(self) -> list[tuple[str, ...]]:
        """Those of each sentence."""
        return [
            tuple(columns[self.word] for _, columns in sentence)
            for sentence in self.sentences
        ]

    def lines(self) -> list[list[str]]:
        """The columns of each line."""
        return [columns for sentence in self.sentences for _, columns in sentence]

    def odd_line(self, of_word: str | None = None) -> str | None:
        """The first line with another number of columns than most, `of_word` or any."""
        widths = Counter(map(len, self.lines()))
        usual = max(widths, key=widths.__getitem__, default=0)
        for number, columns in (line for lines in self.sentences for line in lines):
            if len(columns) != usual and of_word in (None, columns[self.word]):
                return (
                    f"line {number} has {len(columns)} columns ({', '.join(columns)}), "
                    f"where most lines have {usual}"
                )
        return None

    def all_end_with(self, tags: Collection[str]) -> bool:
        """Whether each line holds more than a word, and one of the tags at its end."""
        lines = self.lines()
        return bool(lines) and all(len(x) > 1 and x[-1] in tags for x in lines)

    def untagged_line(self, of_word: str, tags: Collection[str]) -> str | None:
        """The first line `of_word` without a tag at its end, where all other words have one."""
        lines = [line for sentence in self.sentences for line in sentence]
        others = [columns for _, columns in lines if columns[self.word] != of_word]
        if others and all(len(x) > 1 and x[-1] in tags for x in others):
            for number, columns in lines:
                if columns[self.word] == of_word and columns[-1] not in tags:
                    return (
                        f"line {number} ({', '.join(columns)}) ends with no tag of the "
                        "run, as all other lines do"
                    )
        return None


def tagged_rows(path: pathlib.Path, cfg: FileConfig) -> TaggedRows:
    """Reads a word and its tag a line, a blank line between sentences.

    Columns are separated by tabs, or by blanks in lines without tabs. The word is in the
    first column and the tag in the last one, in CoNLL-U in FORM and UPOS, unless the
    settings name other columns, by number from 1 or, in CoNLL-U, by name. Comments are
    left out: `# text = ...` and its like, and among lines with tabs each without one that
    begins with `# `. So are CoNLL-U's lines of several or no words.

    Raises:
        ValueError: another encoding, no such column, a word without tag, or lines with
            another number of columns than most (line named).
    """
    found = rows(path, cfg)
    tag = -1
    if cfg.label is not None or found.conllu:
        tag = _column(path, cfg.label or "upos", "label", conllu=found.conllu)
    tags: list[tuple[str, ...]] = []
    for sentence in found.sentences:
        for number, columns in sentence:
            if len(columns) == 1 or not columns[found.word]:
                raise ValueError(
                    f"{path}, line {number}: {columns[-1]!r} has no tag, or is a tag "
                    "without a word; a line holds a word and, in its last column, its tag."
                )
            if len(columns) <= tag or not columns[tag]:
                raise ValueError(
                    f"{path}, line {number} has nothing in column {tag + 1}, which --label "
                    f"names; the line holds {', '.join(columns)}."
                )
        tags.append(tuple(columns[tag] for _, columns in sentence))
    if tag < 0 and (odd := found.odd_line()):
        raise ValueError(
            f"{path}, {odd}; expected the same number in all, since the tag is the last "
            "one. Mend the line, or name the tag's column with --label."
        )
    where = "its last column" if tag < 0 else f"column {tag + 1}"
    if found.conllu:
        where = _CONLLU[tag].upper()
    how = f"{found.how}, its tag in {where}"
    return TaggedRows(found.words(), tags, how, found.warnings)


def rows(path: pathlib.Path, cfg: FileConfig) -> Rows:
    """Reads a word a line, with tags or without.

    Raises:
        ValueError: as for `tagged_rows`.
    """
    decoded = read_text(path, cfg.encoding)
    sentences = list(_sentences(decoded.text))
    conllu = path.suffix.lower() == ".conllu" or _is_conllu(sentences)
    if conllu:
        sentences = [_conllu_words(path, sentence) for sentence in sentences]
    word = 1 if conllu else 0
    if cfg.text:
        word = _column(path, cfg.text[0], "text", conllu=conllu)
    for number, columns in (line for sentence in sentences for line in sentence):
        if len(columns) <= word:
            raise ValueError(
                f"{path}, line {number} has no column {word + 1}, which --text names; the "
                f"line holds {', '.join(columns)}."
            )
    how = f"{decoded.encoding}, {'CoNLL-U, ' if conllu else ''}a word a line"
    if cfg.text:
        how += f" in column {word + 1}"
    return Rows([x for x in sentences if x], word, how, decoded.warnings, conllu)


def _column(path: pathlib.Path, name: str, flag: str, *, conllu: bool) -> int:
    if name.isascii() and name.isdecimal() and int(name) > 0:
        return int(name) - 1
    if conllu and name.lower() in _CONLLU:
        return _CONLLU.index(name.lower())
    expected = "its number, counted from 1"
    if conllu:
        expected += f", or its name of {', '.join(_CONLLU)}"
    raise ValueError(f"--{flag} {name!r} is no column of {path}; expected {expected}.")


def _is_conllu(sentences: list[list[tuple[int, list[str]]]]) -> bool:
    """By the first line of a word: ten columns, the first of which is a number."""
    lines = (columns for sentence in sentences for _, columns in sentence)
    first = next((columns for columns in lines if not columns[0].startswith("#")), [""])
    return len(first) == len(_CONLLU) and bool(_NUMBER.fullmatch(first[0]))


def _conllu_words(
    path: pathlib.Path, sentence: list[tuple[int, list[str]]]
) -> list[tuple[int, list[str]]]:
    words = []
    for number, columns in sentence:
        if columns[0].startswith("#"):
            continue
        found = _NUMBER.fullmatch(columns[0])
        if len(columns) != len(_CONLLU) or not found:
            raise ValueError(
                f"{path}, line {number} is not CoNLL-U: expected {len(_CONLLU)} columns "
                "between tabs, the first of which is a number. Name the file .conll if it "
                "has another form."
            )
        if not found[1]:
            words.append((number, columns))
    return words


def _sentences(text: str) -> Iterator[list[tuple[int, list[str]]]]:
    """For each sentence: the numbers of its lines, and their columns."""
    sentence: list[tuple[int, list[str]]] = []
    lines = [line.rstrip() for line in io.StringIO(text, newline=None)]
    tabs = sum("\t" in line for line in lines) > sum(map(bool, lines)) / 2
    for number, line in enumerate(lines, 1):
        # A no-break space is a part of the word, as in 10\u00a0000.
        columns = line.split("\t") if "\t" in line else re.split(" +", line.lstrip())
        columns = [column.strip() for column in columns]
        comment = _COMMENT.match(line) or (
            tabs and "\t" not in line and line.startswith("# ")
        )
        if comment or not any(columns) or columns[0] == DOCUMENT:
            if sentence and not comment:
                yield sentence
                sentence = []
        else:
            sentence.append((number, columns))
    if sentence:
        yield sentence
