"""Texts, or pairs of texts, with one label each: files to examples, examples to rows.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled import tables
from bert_jax.data.labelled.columns import Columns, find_columns
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    Reading,
    RowBuilder,
    Text,
    require_file,
)
from bert_jax.data.labelled.folders import read_folders
from bert_jax.data.labelled.label_sets import (
    labels_of_columns,
    separator_of,
    split_labels,
)
from bert_jax.data.labelled.labels import is_number
from bert_jax.data.labelled.long_texts import LONG_TEXTS, Row
from bert_jax.data.labelled.tables import SUFFIXES, read_table
from bert_jax.data.labelled.tfds_table import is_tfds, read_tfds_table
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# The loss is a square in float32.
_LARGEST_NUMBER = math.sqrt(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Examples):
    """Labelled texts in file order."""

    texts: tuple[Text, ...]
    labels: tuple[Any, ...]
    """Of each text a label, or a `LabelSet` where texts have any number of labels."""
    reading: Reading = dataclasses.field(default=Reading(), compare=False)
    places: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """Where each example stands, such as "dev.tsv, line 7", for messages."""

    def records(self) -> Iterator[object]:
        for text, label in zip(self.texts, self.labels, strict=True):
            yield [*text, label]

    def place(self, number: int) -> str:
        """Where that example stands, for messages."""
        return self.places[number] if self.places else f"example {number + 1:,}"


def read_texts(
    path: pathlib.Path | None,
    cfg: TaskConfig,
    split: Split = "train",
    *,
    numbers: bool = False,
    several: bool = False,
) -> LabelledTexts:
    """Reads a table (`tables.SUFFIXES`), a folder with a folder for each class, or a
    dataset of TFDS.

    Blanks around a label are left out.

    Args:
        split: which columns of `cfg` count.
        numbers: whether labels must be finite numbers.
        several: whether a text has any number of labels (`label_sets`).

    Raises:
        ValueError: no path, an unknown kind, a missing column, an unlabelled, short or
            long row, a label that is no number where it must be one, or too large a one
            (line and column are named), or no rows.
    """
    folder = path is not None and is_tfds(path)
    path = require_file(path, SUFFIXES, folder=folder or not (numbers or several))
    if not several:
        refuse_several_labels(path, cfg)
    rows, reading = _read_rows(path, cfg.of_split(split), split)
    separator = None
    if several and not cfg.label_columns:
        fields = (values[-1] for _, values in rows)
        separator = separator_of(fields, cfg.label_separator, path)
        between = f", several between {separator!r}" if separator else ""
        reading = dataclasses.replace(reading, how=f"{reading.how}{between}")
    texts, labels, places, num_skipped = [], [], [], 0
    for place, values in rows:
        where = f"{path}, {place}"
        named = list(zip(reading.columns, values, strict=True))
        *parts, (label_column, label) = named
        text = tuple(text_of(part, f"{where}: column {name!r}") for name, part in parts)
        if several:
            one = functools.partial(
                _label_of, where=f"{where}: column {label_column!r}"
            )
            label = split_labels(label, separator, one)
            label = "" if label is None else label
        else:
            label = _label_of(label, f"{where}: column {label_column!r}")
        if "" in (*text, label):
            if cfg.skip_incomplete:
                num_skipped += 1
                continue
            column = reading.columns[[*text, label].index("")]
            raise ValueError(
                f"{where}: nothing in column {column!r}; mend the file, or pass "
                "--skip-incomplete to leave out rows without text or label."
            )
        if numbers and not is_number(label):
            raise ValueError(
                f"{where}: column {label_column!r} holds {label!r}, which is no finite "
                "number; a regression needs one. Set --label, mend the file, "
                "or leave --task regression out."
            )
        if numbers and abs(float(label)) > _LARGEST_NUMBER:
            raise ValueError(
                f"{where}: column {label_column!r} holds {label!r}; a regression takes "
                f"numbers up to {_LARGEST_NUMBER:.2g}, whose squares float32 holds. Set "
                "--label, or write the numbers in a larger unit."
            )
        texts.append(text)
        labels.append(label)
        places.append(where)
    if not texts:
        raise ValueError(f"{path} holds no row with text and label; expected some.")
    if not several:
        _refuse_lost_numbers(labels, places)
    reading = dataclasses.replace(reading, num_skipped=num_skipped)
    return LabelledTexts(tuple(texts), tuple(labels), reading, tuple(places))


def refuse_several_labels(path: pathlib.Path, cfg: TaskConfig) -> None:
    """Raises ValueError if settings for several labels of a text would be ignored."""
    if cfg.label_columns or cfg.label_separator:
        raise ValueError(
            f"label_columns={cfg.label_columns} and label_separator="
            f"{cfg.label_separator!r} would be ignored: {path} is read with one label for "
            "each text. Pass --task multilabel if a text may have several."
        )


_Rows = list[tuple[str, list[Any]]]


def _read_rows(
    path: pathlib.Path, cfg: TaskConfig, split: Split
) -> tuple[_Rows, Reading]:
    """The place, the texts and the label of each row."""
    if path.is_dir():
        tables.refuse_signs(path, cfg)
    if path.is_dir() and not is_tfds(path):
        table = read_folders(path, cfg)
        chosen, how = Columns(("text",), "label", ()), table.how
    else:
        table = read_tfds_table(path, split) if path.is_dir() else read_table(path, cfg)
        if not table.rows:
            raise ValueError(f"{path} holds no rows; expected labelled text.")
        chosen = find_columns(table, cfg, split)
        how = f"{table.how}; {chosen}"
    label = chosen.label or ", ".join(chosen.flags)

    def label_of(row: tables.Row) -> Any:
        if not chosen.flags:
            return row.fields.get(label)
        return labels_of_columns(row.fields, chosen.flags, f"{path}, {row.place}")

    rows = [
        (row.place, [*(row.fields.get(name) for name in chosen.texts), label_of(row)])
        for row in table.rows
    ]
    return rows, Reading(
        str(path),
        how,
        (*chosen.texts, label),
        warnings=table.warnings,
    )


def text_of(value: Any, where: str) -> str:
    """A field as text, or "" where there is none.

    Raises:
        ValueError: the field is no text; `where` tells the place.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(
            f"{where} holds {_shown(value)}, a {type(value).__name__}; expected a text. "
            "Set --text, or write the text as one string."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half of a character ({value[error.start]!r}), which JSON can "
            "write and bytes that are not UTF-8 become, but no text has; mend it."
        ) from None
    return value if value.strip() else ""


def _label_of(value: Any, where: str) -> str:
    """A field as label, or "" where there is none; JSON's true is "true"."""
    if value is None:
        return ""
    if isinstance(value, list | dict | bytes):
        raise ValueError(
            f"{where} holds {_shown(value)}, a {type(value).__name__}; expected one label. "
            "Pass --task multilabel if a text may have several."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{where} holds {value}, which is no finite number and no label; mend the "
            "file, or remove the row."
        )
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _shown(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}..."


def _refuse_lost_numbers(labels: Sequence[str], places: Sequence[str]) -> None:
    """Refuses "nan" and "inf" where all other labels are numbers.

    Raises:
        ValueError: there is one; its line is named.
    """
    names = set(labels)
    others = {label for label in names if not is_number(label)}
    lost = {x for x in others if x.lower().lstrip("+-") in ("nan", "inf", "infinity")}
    if lost and lost == others and others != names:
        first = next(number for number, label in enumerate(labels) if label in lost)
        raise ValueError(
            f"{places[first]}: the label is {labels[first]!r}, and all others are numbers; "
            "mend the file, or remove the row."
        )


def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    labels: Sequence[int] | np.ndarray,
    sequence_length: int,
    long_texts: str = "cut",
    stride: int | None = None,
) -> EncodedExamples:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], padded to `sequence_length`.

    Args:
        labels: [texts, ...], int32 or float32, as the loss of the task takes them.
        long_texts: what is done with a text that does not fit, of `LONG_TEXTS`. A text
            of n rows counts 1/n in each, so that all texts count the same in the loss.
        stride: tokens from one window of a text to the next one.

    Source: Devlin et al. 2018, section 3 and figure 4.
    """
    num_texts = len(texts[0]) if texts else 1
    columns = [tokenizer.encode([text[n] for text in texts]) for n in range(num_texts)]
    room = sequence_length - tokenizer.pair.num_special(num_texts)
    how = LONG_TEXTS[long_texts]
    plan: list[Row] = []
    counts = np.zeros(len(texts), np.int32)
    num_cut = 0
    for number, parts in enumerate(zip(*columns, strict=True)):
        found = how.rows(list(parts), room, stride)
        num_cut += sum(map(len, parts)) > room
        counts[number] = len(found)
        plan += found
    rows = RowBuilder(tokenizer, len(plan), sequence_length)
    for number, row in enumerate(plan):
        rows.put(number, row)
    values = np.asarray(labels)
    dtype = np.float32 if values.dtype.kind == "f" else np.int32
    example = np.repeat(np.arange(len(texts), dtype=np.int32), counts)
    several = len(plan) > len(texts)
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=values.astype(dtype)[example],
        example=example,
        num_cut=num_cut,
        lost=how.lost,
        weights=(1.0 / counts[example]).astype(np.float32) if several else None,
    )
