"""Labelled text for fine-tuning: files to examples, examples to batches.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.task_files import rows_of
from bert_jax.data.tokenizers.tokenizer import Tokenizer

Text = tuple[str, ...]  # one text, or a pair
# The logits' names where there is one logit: of a regression.
SCORE = ("score",)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled texts in file order."""

    texts: tuple[Text, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def sha256(self) -> str:
        """Identity of the examples, their order included."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(json.dumps([*text, label]).encode())
        return digest.hexdigest()


def load_examples(
    path: pathlib.Path | None, cfg: TaskConfig, split: Split = "train"
) -> Examples:
    """Reads .tsv (no quoting), .csv (quoted) or .jsonl.

    Args:
        split: which columns of `cfg` count; `cfg.max_train` is for "train" only.

    Raises:
        ValueError: no path, an unknown kind, a missing column, an unlabelled, short or
            long row, for a regression a label that is no number (line and column named),
            or no rows.
    """
    if path is None:
        raise ValueError(
            "The task has no file; pass --task.train FILE and --task.validation FILE."
        )
    if path.suffix not in (".tsv", ".csv", ".jsonl"):
        raise ValueError(
            f"{path}: unknown kind {path.suffix!r}; expected .tsv, .csv or .jsonl."
        )
    if path.suffix == ".jsonl" and not cfg.header:
        raise ValueError(
            f"{path}: TaskConfig.header=False would be ignored, since every line of a "
            ".jsonl names its columns; leave --task.no-header out."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should hold labelled text.")
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
        if cfg.kind == "regression" and not _is_number(label):
            raise ValueError(
                f"{path}, line {number}: column {label_column!r} holds {label!r}, which "
                "is no finite number; a regression needs one. Set --task.label-column, "
                "mend the line, or leave --task.kind regression out."
            )
        texts.append(tuple(str(row[name]) for name in text_columns))
        labels.append(label)
    if not texts:
        raise ValueError(f"{path} holds no rows; expected labelled text.")
    examples = Examples(tuple(texts), tuple(labels))
    if split == "train" and cfg.max_train is not None:
        return _some(examples, cfg.max_train)
    return examples


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


def _some(examples: Examples, count: int) -> Examples:
    """`count` of them, drawn at random, in file order: files may be sorted."""
    order = np.random.default_rng(0).permutation(len(examples))
    chosen = np.sort(order[:count])
    return Examples(
        tuple(examples.texts[n] for n in chosen),
        tuple(examples.labels[n] for n in chosen),
    )


def label_names(examples: Examples) -> tuple[str, ...]:
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


@dataclasses.dataclass(frozen=True)
class EncodedExamples:
    """Examples as the model takes them, all padded to one length."""

    input_ids: np.ndarray  # int32 [examples, T]
    segment_ids: np.ndarray  # int32 [examples, T]
    input_mask: np.ndarray  # int32 [examples, T]
    labels: np.ndarray  # int32 [examples], or float32 of a regression

    def __len__(self) -> int:
        return self.labels.size

    def batch(self, numbers: np.ndarray, batch_size: int) -> ClassifyBatch:
        """The examples `numbers`; copies of the first fill up with weight 0."""
        filler = np.zeros(batch_size - numbers.size, numbers.dtype)
        every = np.concatenate([numbers, filler])
        weights = np.zeros(batch_size, np.float32)
        weights[: numbers.size] = 1.0
        return ClassifyBatch(
            input_ids=self.input_ids[every],
            segment_ids=self.segment_ids[every],
            input_mask=self.input_mask[every],
            labels=self.labels[every],
            weights=weights,
        )


def encode_examples(
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
    special = tokenizer.special
    num_texts = len(texts[0]) if texts else 1
    shape = (len(texts), sequence_length)
    ids_BT = np.full(shape, special.pad, np.int32)
    segments_BT, mask_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    columns = [tokenizer.encode([text[n] for text in texts]) for n in range(num_texts)]
    for row, parts in enumerate(zip(*columns, strict=True)):
        end = 1
        ids_BT[row, 0] = special.cls
        lengths = _fit([len(p) for p in parts], sequence_length - 1 - num_texts)
        for segment, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            ids_BT[row, end : end + length] = part[:length]
            ids_BT[row, end + length] = special.sep
            segments_BT[row, end : end + length + 1] = segment
            end += length + 1
        mask_BT[row, :end] = 1
    values = np.asarray(labels)
    dtype = np.float32 if values.dtype.kind == "f" else np.int32
    return EncodedExamples(ids_BT, segments_BT, mask_BT, values.astype(dtype))


def _fit(lengths: list[int], room: int) -> list[int]:
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    a, b = lengths
    b_fits = max(room // 2, room - a)
    b = min(b, b_fits)
    return [min(a, room - b), b]


def label_numbers(examples: Examples, names: tuple[str, ...]) -> np.ndarray:
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


def output_names(examples: Examples, cfg: TaskConfig) -> tuple[str, ...]:
    """What the logits are called: the labels, or the one score of a regression.

    Raises:
        ValueError: a classifier has fewer than two labels.
    """
    return SCORE if cfg.kind == "regression" else label_names(examples)


def label_values(
    examples: Examples, names: tuple[str, ...], cfg: TaskConfig
) -> np.ndarray:
    """Labels as a loss takes them: int32 [examples], float32 for a regression.

    Raises:
        ValueError: a label is not among `names`.
    """
    if cfg.kind == "regression":
        return np.array([float(label) for label in examples.labels], np.float32)
    return label_numbers(examples, names)


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation that is pure in (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)
