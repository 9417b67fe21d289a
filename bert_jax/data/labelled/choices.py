"""Questions with several choices, one of them right: tables to examples, to rows.

Shape suffixes: G choices, T tokens.
"""

import dataclasses
import pathlib
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.columns import refuse_twins
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    Reading,
    Text,
    require_file,
)
from bert_jax.data.labelled.groups import encode_groups
from bert_jax.data.labelled.labels import numbers_of
from bert_jax.data.labelled.tables import SUFFIXES, Table, complete_rows, read_table
from bert_jax.data.labelled.texts import refuse_several_labels, text_of
from bert_jax.data.labelled.unlabelled import Unlabelled, ids_of
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# Of two texts, the second one opens each choice: SWAG's sent2 is its beginning, and the
# question of a passage stands before its answers.
_TEXTS = (
    *(("sent1", "sent2"), ("ctx_a", "ctx_b"), ("context", "question")),
    *(("article", "question"), ("passage", "question"), ("premise", "question")),
    *(("question",), ("goal",), ("context",), ("premise",), ("text",)),
)
_LISTS = ("choices", "options", "endings", "answers", "candidates")
_NUMBERED = re.compile(
    r"(ending|choice|option|answer|alternative|candidate|sol|op)[ _]?(\d+|[a-h])"
)
_LABELS = (
    *("label", "answer", "answerkey", "answer_key", "correct", "gold", "target"),
    *("correct_option", "cop"),
)
_MOST = len(string.ascii_uppercase)


@dataclasses.dataclass(frozen=True)
class Choices(Examples):
    """Questions with their choices, in file order."""

    texts: tuple[Text, ...]
    """Of each: the text before the choices, then the choices, two or more."""
    labels: tuple[str, ...]
    """Name of the right choice as it stands in the file; none where it is not known."""
    reading: Reading = dataclasses.field(default=Reading(), compare=False)

    @property
    def sizes(self) -> np.ndarray:
        """int [examples], the number of choices of each."""
        return np.array([len(text) - 1 for text in self.texts])

    def records(self) -> Iterator[object]:
        for text, label in zip(self.texts, self.labels, strict=True):
            yield [*text, label]


class _Columns(NamedTuple):
    texts: tuple[str, ...]
    choices: tuple[str, ...]
    label: str | None


def read_choices(path: pathlib.Path | None, cfg: TaskConfig) -> Choices:
    """Reads a table (`tables.SUFFIXES`) with one or two texts, choices and a label.

    The choices stand in a column each, or in one column that holds a list of them (in a
    .jsonl or a .parquet). An example may have fewer than others.

    Args:
        cfg: of the split that the file is.

    Raises:
        ValueError: no path, an unknown kind, a missing column, an incomplete row, fewer
            than two choices (the line is named), or no rows.
        FileNotFoundError: nothing is there.
    """
    table, columns = _open(path, cfg, labelled=True)
    assert columns.label is not None
    names = (*columns.texts, *columns.choices, columns.label)
    optional = (*columns.texts[1:], *columns.choices[2:])
    rows, num_skipped = complete_rows(table, names, cfg, may_be_empty=optional)
    texts = [_text_of(columns, row.values[:-1], row.where) for row in rows]
    labels = [str(row.values[-1]).strip() for row in rows]
    reading = Reading(
        str(path),
        f"{table.how}; {_said(columns)}",
        num_skipped=num_skipped,
        warnings=table.warnings,
    )
    return Choices(tuple(texts), tuple(labels), reading)


def read_unlabelled_choices(path: pathlib.Path, cfg: TaskConfig) -> Unlabelled:
    """Reads the same tables to predict on; labels are not needed.

    Raises:
        ValueError, FileNotFoundError: as for `read_choices`.
    """
    labelled = cfg.label is not None
    table, columns = _open(path, cfg, labelled=labelled)
    names = (*columns.texts, *columns.choices)
    texts = []
    for row in table.rows:
        values = [row.fields.get(name) for name in names]
        texts.append(_text_of(columns, values, f"{path}, {row.place}"))
    labels = None
    if columns.label is not None:
        labels = [row.fields.get(columns.label) for row in table.rows]
    how = f"{table.how}; {_said(columns)}"
    return Unlabelled(texts, ids_of(table), labels, how, table.warnings)


def _open(
    path: pathlib.Path | None, cfg: TaskConfig, *, labelled: bool
) -> tuple[Table, _Columns]:
    path = require_file(path, SUFFIXES)
    refuse_several_labels(path, cfg)
    table = read_table(path, cfg)
    if not table.rows:
        raise ValueError(f"{path} holds no rows; expected questions with choices.")
    label = _label_column(table, cfg) if labelled else None
    free = {x.lower(): x for x in table.columns if x not in (*cfg.text, label)}
    lists = tuple(free[name] for name in _LISTS if name in free)[:1]
    numbered = [x for x in map(_NUMBERED.fullmatch, free) if x]
    # A label counts by these numbers, and columns may stand in another order.
    numbered.sort(key=lambda x: (x[1], len(x[2]), x[2]))
    choices = cfg.choices or lists or tuple(free[x[0]] for x in numbered)
    if not (cfg.choices or lists) and len({x[1] for x in numbered}) > 1:
        raise ValueError(
            f"{path} has several columns that could be the choices ({', '.join(choices)}); "
            "name those that are with --choices."
        )
    texts = cfg.text or next(
        (
            tuple(free[name] for name in names)
            for names in _TEXTS
            if all(name in free and free[name] not in choices for name in names)
        ),
        (),
    )
    wanted = [("text", texts), ("choices", choices)]
    if labelled:
        wanted.append(("label", (label,) if label is not None else ()))
    for flag, names in wanted:
        absent = [name for name in names if name not in table.columns]
        if absent or not names:
            lack = f"column {absent[0]!r}" if absent else f"usual name for --{flag}"
            raise ValueError(
                f"{path} has no {lack}; the columns are {', '.join(table.columns)}. "
                f"Set --{flag}. A file for --task choice has one text or two, choices "
                "and the right one, such as sent1, sent2, ending0, ending1, label."
            )
    given = {*cfg.text, *cfg.choices, *filter(None, [cfg.label])}
    found = {*texts, *choices, *filter(None, [label])} - given
    refuse_twins(table, sorted(found), given)
    return table, _Columns(texts, choices, label)


def _label_column(table: Table, cfg: TaskConfig) -> str | None:
    names = {name.lower(): name for name in table.columns if name not in cfg.choices}
    usual = (names[name] for name in _LABELS if name in names)
    return cfg.label or next(usual, None)


def _text_of(columns: _Columns, values: Sequence[Any], where: str) -> Text:
    """The text before the choices, and the choices, each behind the second text."""
    num_texts = len(columns.texts)
    first, *second = (
        text_of(value, f"{where}: column {name!r}")
        for name, value in zip(columns.texts, values[:num_texts], strict=True)
    )
    choices = list(zip(columns.choices, values[num_texts:], strict=True))
    if len(choices) == 1:
        choices = [(columns.choices[0], x) for x in _items(choices[0][1], where)]
    texts = [text_of(value, f"{where}: column {name!r}") for name, value in choices]
    while texts and not texts[-1]:
        texts.pop()  # an example with fewer choices than others
    if not 2 <= len(texts) <= _MOST or "" in texts:
        raise ValueError(
            f"{where}: {len(texts)} choices {texts}; expected 2 to {_MOST}, and only the "
            "last columns of choices may be empty. Mend the line, or set --choices."
        )
    return (first, *(" ".join([*filter(None, second), text]) for text in texts))


def _items(value: Any, where: str) -> list[Any]:
    """The choices in one field: a list, or an object that holds it as "text".

    Raises:
        ValueError: there is no list, or the choices have names in another order than
            labels count in.
    """
    names = None
    if isinstance(value, dict):
        value, names = value.get("text"), value.get("label")
    if not isinstance(value, list):
        raise ValueError(
            f"{where}: the choices are {value!r}; expected a list of texts, or a column "
            "for each choice (--choices A B C)."
        )
    if names is None and all(isinstance(x, dict) for x in value):
        names = [x.get("label") for x in value if x.get("label") is not None]
    called = list(map(str, names)) if isinstance(names, list) else []
    if called and all(called != list(x[: len(value)]) for x in _numberings(len(value))):
        raise ValueError(
            f"{where}: the choices are called {', '.join(called)}; expected numbers from "
            "0 or 1, or letters from A, in their order, since the label is one of them. "
            "Put the choices into that order."
        )
    return [x.get("text") if isinstance(x, dict) else x for x in value]


def _numberings(most: int) -> list[tuple[str, ...]]:
    """What choices may be called: numbers from 0 or from 1, or letters from A or a."""
    from_0, from_1 = (
        tuple(str(n) for n in range(first, first + most)) for first in (0, 1)
    )
    upper = tuple(string.ascii_uppercase[:most])
    return [from_0, from_1, upper, tuple(x.lower() for x in upper)]


def _said(columns: _Columns) -> str:
    said = f"text from {columns.texts[0]!r}, choices from "
    said += ", ".join(map(repr, columns.choices))
    if len(columns.texts) > 1:
        said += f", each behind {columns.texts[1]!r}"
    return said if columns.label is None else f"{said}, label from {columns.label!r}"


def choice_names(examples: Choices) -> tuple[str, ...]:
    """What the labels call the choices: numbers from 0 or from 1, or letters from A.

    Numbers begin at 1 if no label is 0 and one is the number of choices.

    Raises:
        ValueError: the labels are neither.
    """
    most = int(examples.sizes.max())
    seen = set(examples.labels)
    for names in _numberings(most):
        if seen <= set(names):
            return names
    from_0, from_1, upper, _ = _numberings(most)
    odd = sorted(seen - {*from_0, *from_1, *upper}) or sorted(seen)
    others = " and others" if len(seen) > len(odd[:5]) else ""
    raise ValueError(
        f"{examples.reading.path}: the labels are {', '.join(map(repr, odd[:5]))}{others}; "
        f"expected the number of the right choice, 0 to {most - 1} or 1 to "
        f"{most}, or its letter, A to {upper[-1]}. Set --label, or mend the file."
    )


def _refuse_other_count(examples: Choices, names: Sequence[str]) -> None:
    """Raises ValueError if one file counts from 0 and the other one from 1."""
    begins = {"0": 1, "1": 0}
    seen = set(examples.labels)
    if seen <= set(names) or names[0] not in begins:
        return
    begin = begins[names[0]]
    if seen <= {str(begin + n) for n in range(int(examples.sizes.max()))}:
        raise ValueError(
            f"{examples.reading.path}: the labels {', '.join(sorted(seen, key=int))} count the "
            f"choices from {begin}, but those of the training file, {', '.join(names)}, "
            f"from {names[0]}. Count from 0 in both files, or write letters from A."
        )


def encode_choices(
    tokenizer: Tokenizer,
    examples: Choices,
    names: Sequence[str],
    sequence_length: int,
) -> EncodedExamples:
    """`[CLS] text [SEP] choice [SEP]` for each choice; labels are int32 [examples].

    Args:
        names: of the choices, from `choice_names` of the training examples.

    Raises:
        ValueError: a label names no choice of its example.

    Source: Devlin et al. 2018, section 4.4.
    """
    labels = np.zeros(len(examples), np.int32)
    if examples.labels:
        _refuse_other_count(examples, names)
        labels = numbers_of(
            examples.labels,
            names,
            place=lambda number: f"{examples.reading.path}, example {number + 1:,}",
        )
        beyond = np.flatnonzero(labels >= examples.sizes)
        if beyond.size:
            number = int(beyond[0])
            raise ValueError(
                f"{examples.reading.path}: example {number + 1:,} has the label "
                f"{examples.labels[number]!r} and {examples.sizes[number]} choices, which "
                f"are called {', '.join(names[: examples.sizes[number]])}; mend the file."
            )
    pairs = [
        [(text, choice) for choice in choices] for text, *choices in examples.texts
    ]
    return encode_groups(tokenizer, pairs, labels, sequence_length)
