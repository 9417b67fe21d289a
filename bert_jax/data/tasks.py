"""Labelled text for fine-tuning: files to examples, examples to batches.

Shape suffixes: B rows, T tokens.
"""

import csv
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer

Text = tuple[str, ...]  # one text, or a pair


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


def load_examples(path: pathlib.Path | None, cfg: TaskConfig) -> Examples:
    """Reads .tsv (no quoting), .csv (quoted) or .jsonl.

    Raises:
        ValueError: no path, an unknown kind, a missing column, an unlabelled or short
            row (its number named), or no rows.
    """
    if path is None:
        raise ValueError(
            "The task has no file; pass --task.train FILE and --task.validation FILE."
        )
    if path.suffix not in (".tsv", ".csv", ".jsonl"):
        raise ValueError(
            f"{path}: unknown kind {path.suffix!r}; expected .tsv or .csv with a "
            "header, or .jsonl."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should hold labelled text.")
    texts, labels = [], []
    columns = (*cfg.text_columns, cfg.label_column)
    for number, row in _rows(path):
        if None in row:
            raise ValueError(
                f"{path}, line {number}: more fields than the header has columns "
                f"({', '.join(str(name) for name in row if name)}); mend the line."
            )
        missing = [name for name in columns if row.get(name) in (None, "")]
        if missing:
            raise ValueError(
                f"{path}, line {number}: nothing in column {missing[0]!r}; the columns "
                f"are {', '.join(str(name) for name in row)}. Set "
                "--task.text-columns and --task.label-column, or mend the line."
            )
        texts.append(tuple(str(row[name]) for name in cfg.text_columns))
        labels.append(str(row[cfg.label_column]))
    if not texts:
        raise ValueError(f"{path} holds no rows; expected labelled text.")
    return Examples(tuple(texts), tuple(labels))


def _rows(path: pathlib.Path) -> Iterator[tuple[int, dict]]:
    # Files made on Windows open with a byte-order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            if path.suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise ValueError(
                                f"{path}, line {number}: a line must be an object such "
                                'as {"text": "...", "label": "..."}.'
                            )
                        yield number, row
            else:
                # The field's .tsv files do not quote: a quote is part of the text.
                rows = (
                    csv.DictReader(file)
                    if path.suffix == ".csv"
                    else csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                )
                # Rows are not lines: blank ones are skipped, quoted breaks add some.
                yield from ((rows.line_num, row) for row in rows)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 ({error}); convert it, e.g. with iconv."
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}).") from None
        except csv.Error as error:
            raise ValueError(
                f"{path}: not readable as {path.suffix} ({error})."
            ) from None


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
    labels: np.ndarray  # int32 [examples]

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
    label_ids: Sequence[int],
    sequence_length: int,
) -> EncodedExamples:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut and padded to `sequence_length`.

    Of a pair, the longer text loses its end first.

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
    return EncodedExamples(
        ids_BT, segments_BT, mask_BT, np.asarray(label_ids, np.int32)
    )


def _fit(lengths: list[int], room: int) -> list[int]:
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    a, b = lengths
    b_fits = max(room // 2, room - a)
    b = min(b, b_fits)
    return [min(a, room - b), b]


def label_numbers(examples: Examples, names: tuple[str, ...]) -> list[int]:
    """Each label's place in `names`.

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
    return [number_of[label] for label in examples.labels]


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation that is pure in (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)
