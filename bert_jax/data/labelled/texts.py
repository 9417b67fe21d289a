"""Texts, or pairs of texts, with one label each: files to examples, examples to rows.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.columns import find_columns
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    Reading,
    RowBuilder,
    Text,
    require_file,
)
from bert_jax.data.labelled.folders import read_folders
from bert_jax.data.labelled.labels import is_number
from bert_jax.data.labelled.tables import SUFFIXES, read_table
from bert_jax.data.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Examples):
    """Labelled texts in file order."""

    texts: tuple[Text, ...]
    labels: tuple[str, ...]
    reading: Reading = dataclasses.field(default=Reading(), compare=False)

    def __len__(self) -> int:
        return len(self.texts)

    def records(self) -> Iterator[object]:
        for text, label in zip(self.texts, self.labels, strict=True):
            yield [*text, label]

    def take(self, numbers: np.ndarray) -> "LabelledTexts":
        return dataclasses.replace(
            self,
            texts=tuple(self.texts[n] for n in numbers),
            labels=tuple(self.labels[n] for n in numbers),
        )


def read_texts(
    path: pathlib.Path | None,
    cfg: TaskConfig,
    split: Split = "train",
    *,
    numbers: bool = False,
) -> LabelledTexts:
    """Reads a table (`tables.SUFFIXES`), or a folder with a folder for each class.

    Blanks around a label are left out.

    Args:
        split: which columns of `cfg` count.
        numbers: whether labels must be finite numbers.

    Raises:
        ValueError: no path, an unknown kind, a missing column, an unlabelled, short or
            long row, a label that is no number where it must be one (line and column
            are named), or no rows.
    """
    path = require_file(path, SUFFIXES, folder=not numbers)
    read = _read_folders if path.is_dir() else _read_table
    rows, reading = read(path, cfg.of_split(split), split)
    texts, labels, places, num_skipped = [], [], [], 0
    for place, values in rows:
        where = f"{path}, {place}"
        named = list(zip(reading.columns, values, strict=True))
        *parts, (label_column, label) = named
        text = tuple(text_of(part, f"{where}: column {name!r}") for name, part in parts)
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
        texts.append(text)
        labels.append(label)
        places.append(where)
    if not texts:
        raise ValueError(f"{path} holds no row with text and label; expected some.")
    _refuse_lost_numbers(labels, places)
    reading = dataclasses.replace(reading, num_skipped=num_skipped)
    return LabelledTexts(tuple(texts), tuple(labels), reading)


def _read_table(
    path: pathlib.Path, cfg: TaskConfig, split: Split
) -> tuple[Iterator[tuple[str, list[Any]]], Reading]:
    table = read_table(path, cfg)
    if not table.rows:
        raise ValueError(f"{path} holds no rows; expected labelled text.")
    chosen = find_columns(table, cfg, split)
    assert chosen.label is not None
    columns = (*chosen.texts, chosen.label)
    rows = ((r.place, [r.fields.get(name) for name in columns]) for r in table.rows)
    return rows, Reading(
        str(path), f"{table.how}; {chosen}", columns, warnings=table.warnings
    )


def _read_folders(
    path: pathlib.Path, cfg: TaskConfig, split: Split
) -> tuple[Iterator[tuple[str, list[Any]]], Reading]:
    files, how = read_folders(path, cfg)
    rows = ((f"file {file.name}", [file.text, file.label]) for file in files)
    return rows, Reading(str(path), how, ("text", "label"))


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
            "write but no text has; mend the file."
        ) from None
    return value if value.strip() else ""


def _label_of(value: Any, where: str) -> str:
    """A field as label, or "" where there is none; JSON's true is "true"."""
    if value is None:
        return ""
    if isinstance(value, list | dict | bytes):
        raise ValueError(
            f"{where} holds {_shown(value)}, a {type(value).__name__}; expected one label. "
            "Several labels for one text (multi-label) are not supported."
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
) -> EncodedExamples:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut and padded to `sequence_length`.

    Of a pair, the longer text loses its end first.

    Args:
        labels: [texts], numbers of classes, or float32 of a regression.

    Source: Devlin et al. 2018, section 3 and figure 4.
    """
    num_texts = len(texts[0]) if texts else 1
    rows = RowBuilder(tokenizer.special, len(texts), sequence_length)
    columns = [tokenizer.encode([text[n] for text in texts]) for n in range(num_texts)]
    room = sequence_length - 1 - num_texts
    num_cut = 0
    for row, parts in enumerate(zip(*columns, strict=True)):
        lengths = _fit([len(p) for p in parts], room)
        num_cut += sum(map(len, parts)) > room
        rows.put(row, [part[:n] for part, n in zip(parts, lengths, strict=True)])
    values = np.asarray(labels)
    dtype = np.float32 if values.dtype.kind == "f" else np.int32
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=values.astype(dtype),
        example=np.arange(len(texts), dtype=np.int32),
        num_cut=num_cut,
    )


def _fit(lengths: list[int], room: int) -> list[int]:
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    a, b = lengths
    b_fits = max(room // 2, room - a)
    b = min(b, b_fits)
    return [min(a, room - b), b]
