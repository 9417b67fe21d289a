"""Texts to predict on: the rows of a file or the lines of a stream, in their order."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bert_jax.config import FileConfig
from bert_jax.config.checks import require_used
from bert_jax.data.labelled.columns import find_columns
from bert_jax.data.labelled.decoding import read_text
from bert_jax.data.labelled.examples import Text, require_file
from bert_jax.data.labelled.tables import SUFFIXES, Table, first_line, read_table
from bert_jax.data.labelled.texts import text_of
from bert_jax.data.plural import plural

_IDS = ("id", "idx", "index", "guid", "qid")


def no_text(number: int) -> str:
    """What to say where none of the given texts, of which there are so many, can be used."""
    if not number:
        return "No text given; pass some as arguments, in a file or on standard input."
    some = plural(number, "text")
    return f"Nothing to work on: of {some}, each is empty or has an empty part."


class Unlabelled(NamedTuple):
    texts: Sequence[Text]
    """One for each row or line; a row without text has one that is empty."""
    ids: list[Any] | None = None
    """Of each row, where the file has a column such as "id"."""
    labels: list[Any] | None = None
    """Of each row, as they stand in the file, where a label column is given."""
    how: str = ""
    """How the file was read, in words."""
    warnings: tuple[str, ...] = ()

    def parts(self, size: int) -> Iterator["Unlabelled"]:
        """The same texts, at most `size` at a time."""
        for first in range(0, len(self.texts), size):
            some = slice(first, first + size)
            yield self._replace(
                texts=self.texts[some],
                ids=None if self.ids is None else self.ids[some],
                labels=None if self.labels is None else self.labels[some],
            )


def from_lines(lines: Sequence[str]) -> Unlabelled:
    """A text a line; a tab separates the two of a pair."""
    return Unlabelled([tuple(line.split("\t")) for line in lines], how="a text a line")


def read_lines(path: pathlib.Path, cfg: FileConfig) -> Unlabelled:
    """A file with a text a line."""
    decoded = read_text(path, cfg.encoding)
    found = from_lines(decoded.lines)
    how = f"{decoded.encoding}, {found.how}"
    return found._replace(how=how, warnings=decoded.warnings)


def read_unlabelled(path: pathlib.Path, cfg: FileConfig) -> Unlabelled:
    """Reads the texts of a table. Labels are not needed.

    A .txt whose first line does not have the text columns, or for which none are given,
    holds a text a line.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: not a file of its kind, or without the text columns, or a text column
            holds something else (the line is named), or the file holds no row; or `cfg`
            names several columns of labels.
    """
    why = "one column of labels at most is read, --label. Leave it out."
    require_used(cfg, False, why, "label_columns")
    path = require_file(path, SUFFIXES)
    if path.suffix.lower() == ".txt" and not _has_columns(path, cfg):
        return read_lines(path, cfg)
    table = read_table(path, cfg)
    if not table.rows:
        raise ValueError(f"{path} holds no rows; expected texts to predict on.")
    labelled = cfg.label is not None
    chosen = find_columns(table, cfg, None, labelled=labelled)
    texts = [
        tuple(
            text_of(row.fields.get(name), f"{path}, {row.place}: column {name!r}")
            for name in chosen.texts
        )
        for row in table.rows
    ]
    labels = [r.fields.get(chosen.label) for r in table.rows] if chosen.label else None
    return Unlabelled(
        texts, ids_of(table), labels, f"{table.how}; {chosen}", table.warnings
    )


def ids_of(table: Table) -> list[Any] | None:
    """The id of each row, where the table has a column such as "id"."""
    column = next((name for name in table.columns if name.lower() in _IDS), None)
    return [row.fields.get(column) for row in table.rows] if column else None


def _has_columns(path: pathlib.Path, cfg: FileConfig) -> bool:
    if not cfg.text:
        return False
    first = first_line(read_text(path, cfg.encoding).text)
    fields = [field.strip() for field in first.split(cfg.separator or "\t")]
    if cfg.header:
        return {*cfg.text} <= {*fields}
    return max(map(int, cfg.text)) <= len(fields)
