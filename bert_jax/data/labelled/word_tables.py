"""Sentences as lists of words and of tags: .jsonl and .parquet, as `datasets` writes them."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

from bert_jax.config import FileConfig
from bert_jax.data.json_text import loads
from bert_jax.data.labelled.tables import Table, read_table
from bert_jax.data.labelled.texts import text_of
from bert_jax.data.labelled.word_columns import DOCUMENT, TaggedRows

SUFFIXES = (".jsonl", ".parquet")
EXPECTED = (
    'a list of words and a list of their tags a row, such as "tokens" and "ner_tags"'
)
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "ner", "label", "pos_tags", "upos")


def tagged_rows(path: pathlib.Path, cfg: FileConfig) -> TaggedRows:
    """Reads a list of words and a list of their tags from each row.

    Tags may be numbers: the Parquet files of the `datasets` library know their names.

    Raises:
        ValueError: no such columns, no lists, or lists of different lengths (the row is
            named).
    """
    table = read_table(path, cfg)
    word = word_column(table, cfg)
    tag = cfg.label or next((name for name in _TAGS if name in table.columns), None)
    if word is None or tag not in table.columns:
        raise ValueError(
            f"{path} has no columns of words and tags; its columns are "
            f"{', '.join(table.columns)}. Set --text and --label. Expected {EXPECTED}."
        )
    names = _tag_names(path, tag)
    rows = TaggedRows([], [], f"{table.how}; words from {word!r}, tags from {tag!r}")
    numbers = False
    for row, words in zip(table.rows, words_of(table, word), strict=True):
        given = row.fields.get(tag)
        if not isinstance(given, list) or len(given) != len(words):
            what = f"{len(given)} tags" if isinstance(given, list) else repr(given)
            raise ValueError(
                f"{path}, {row.place}: {len(words)} words, but {what} in {tag!r}; expected "
                "a list with a tag for each word."
            )
        if not words or words == (DOCUMENT,):
            continue
        numbers = numbers or isinstance(given[0], int)
        rows.words.append(words)
        where = f"{path}, {row.place}"
        rows.tags.append(tuple(_name(where, x, names) for x in given))
    if numbers and names is None:
        warning = (
            f"the tags of {path} are numbers without names, so no entities are known; "
            "write their names into the file to have entities scored"
        )
        return rows._replace(warnings=(*table.warnings, warning))
    return rows._replace(warnings=table.warnings)


def word_column(table: Table, cfg: FileConfig) -> str | None:
    """The column of the words, as given or by its usual names; `None` without one."""
    if cfg.text and cfg.text[0] in table.columns:
        column = cfg.text[0]
        listed = any(isinstance(row.fields.get(column), list) for row in table.rows)
        return column if listed else None
    if cfg.text:
        return None
    return next((name for name in _WORDS if name in table.columns), None)


def words_of(table: Table, column: str) -> list[tuple[str, ...]]:
    """The words of each row.

    Raises:
        ValueError: the column of a row holds no list of texts, or half of a character.
    """
    found = []
    for row in table.rows:
        words = row.fields.get(column)
        if not isinstance(words, list) or not all(isinstance(x, str) for x in words):
            raise ValueError(
                f"{table.path}, {row.place}: {column!r} holds {str(words)[:60]!r}; expected "
                "a list of words."
            )
        for word in words:
            text_of(word, f"{table.path}, {row.place}: column {column!r}")
        found.append(tuple(words))
    return found


def _name(where: str, tag: Any, names: Sequence[str] | None) -> str:
    if tag is None or not str(tag).strip():
        raise ValueError(
            f"{where}: the tag of a word is {tag!r}; expected one for each word, such as O "
            "for a word outside of entities. Mend the file."
        )
    if names is None or not isinstance(tag, int):
        return str(tag).strip()
    if not 0 <= tag < len(names):
        raise ValueError(
            f"{where}: the tag {tag} has no name; the file names {len(names)} tags: "
            f"{', '.join(names)}."
        )
    return names[tag]


def _tag_names(path: pathlib.Path, column: str) -> Sequence[str] | None:
    """The names of numbered tags that the `datasets` library keeps in a Parquet file."""
    if path.suffix.lower() != ".parquet":
        return None
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    with contextlib.suppress(ValueError, LookupError, TypeError):  # of another form
        feature = loads(metadata[b"huggingface"])["info"]["features"][column]
        if isinstance(feature, dict):
            feature = feature["feature"]
        # Older versions write a list around the feature of the elements.
        if isinstance(feature, list):
            [feature] = feature
        names: Sequence[str] = feature["names"]
        return names
    return None
