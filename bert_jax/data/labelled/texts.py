"""Texts, or pairs of texts, with one label each: files to examples, examples to rows.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    RowBuilder,
    Text,
    require_file,
)
from bert_jax.data.labelled.tables import rows_of
from bert_jax.data.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Examples):
    """Labelled texts in file order."""

    texts: tuple[Text, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def records(self) -> Iterator[object]:
        for text, label in zip(self.texts, self.labels, strict=True):
            yield [*text, label]

    def take(self, numbers: np.ndarray) -> "LabelledTexts":
        return LabelledTexts(
            tuple(self.texts[n] for n in numbers),
            tuple(self.labels[n] for n in numbers),
        )


def read_texts(
    path: pathlib.Path | None,
    cfg: TaskConfig,
    split: Split = "train",
    *,
    numbers: bool = False,
) -> LabelledTexts:
    """Reads .tsv (no quoting), .csv (quoted) or .jsonl.

    Args:
        split: which columns of `cfg` count.
        numbers: whether labels must be finite numbers.

    Raises:
        ValueError: no path, an unknown kind, a missing column, an unlabelled, short or
            long row, a label that is no number where it must be one (line and column
            are named), or no rows.
    """
    path = require_file(path, (".tsv", ".csv", ".jsonl"))
    if path.suffix == ".jsonl" and not cfg.header:
        raise ValueError(
            f"{path}: TaskConfig.header=False would be ignored, since every line of a "
            ".jsonl names its columns; leave --task.no-header out."
        )
    texts, labels = [], []
    *text_columns, label_column = columns = cfg.columns(split)
    for number, row in rows_of(path, header=cfg.header):
        missing = [name for name in columns if row.get(name) in (None, "")]
        if missing:
            raise ValueError(
                f"{path}, line {number}: nothing in column {missing[0]!r}; the columns "
                f"are {', '.join(str(name) for name in row)}. {_ADVICE[split]}, or mend "
                "the line."
            )
        label = str(row[label_column])
        if numbers and not _is_number(label):
            raise ValueError(
                f"{path}, line {number}: column {label_column!r} holds {label!r}, which "
                "is no finite number; a regression needs one. Set --task.label-column, "
                "mend the line, or leave --task.kind regression out."
            )
        texts.append(tuple(str(row[name]) for name in text_columns))
        labels.append(label)
    if not texts:
        raise ValueError(f"{path} holds no rows; expected labelled text.")
    return LabelledTexts(tuple(texts), tuple(labels))


_ADVICE: dict[Split, str] = {
    "train": "Set --task.text-columns and --task.label-column (by number, with "
    "--task.no-header, where no line names them)",
    "validation": "Set --task.validation-text-columns and "
    "--task.validation-label-column where they differ from those to train on",
}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def label_names(examples: LabelledTexts) -> tuple[str, ...]:
    """The distinct labels, sorted; their order is the order of the logits.

    Raises:
        ValueError: fewer than two.
    """
    names = tuple(sorted(set(examples.labels)))
    if len(names) < 2:
        raise ValueError(
            f"The training file has one label only, {names[0]!r}; a classifier needs "
            "two or more."
        )
    return names


def label_numbers(examples: LabelledTexts, names: tuple[str, ...]) -> np.ndarray:
    """Each label's place in `names`, int32 [examples].

    Raises:
        ValueError: a label is not among them.
    """
    number_of = {name: number for number, name in enumerate(names)}
    unknown = sorted({x for x in examples.labels if x not in number_of})
    if unknown:
        raise ValueError(
            f"Label {unknown[0]!r} does not occur in the training file, whose labels "
            f"are {', '.join(names)}; remove such rows or add training examples."
        )
    return np.array([number_of[label] for label in examples.labels], np.int32)


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
    for row, parts in enumerate(zip(*columns, strict=True)):
        lengths = _fit([len(p) for p in parts], sequence_length - 1 - num_texts)
        rows.put(row, [part[:n] for part, n in zip(parts, lengths, strict=True)])
    values = np.asarray(labels)
    dtype = np.float32 if values.dtype.kind == "f" else np.int32
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=values.astype(dtype),
        example=np.arange(len(texts), dtype=np.int32),
    )


def _fit(lengths: list[int], room: int) -> list[int]:
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    a, b = lengths
    b_fits = max(room // 2, room - a)
    b = min(b, b_fits)
    return [min(a, room - b), b]
