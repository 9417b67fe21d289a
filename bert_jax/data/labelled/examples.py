"""What all labelled data has in common: examples, and the rows of ids made of them.

Shape suffixes: B rows of a batch, T tokens.
"""

import abc
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from bert_jax.batch import ClassifyBatch, SpecialIds

Text = tuple[str, ...]  # one text, or a pair


class Examples(abc.ABC):
    """Labelled examples in the order of their file."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def records(self) -> Iterable[object]:
        """Text and label of each example, as plain JSON values."""

    @abc.abstractmethod
    def take(self, numbers: np.ndarray) -> Self:
        """The examples of these numbers, in that order."""

    def sha256(self) -> str:
        """Identity of the examples, their order included."""
        digest = hashlib.sha256()
        for record in self.records():
            digest.update(json.dumps(record).encode())
        return digest.hexdigest()

    def sample(self, count: int | None) -> Self:
        """At most `count` of them, drawn at random but equal in every run, in file order.

        Files may be sorted, so the first ones would not do.
        """
        if count is None:
            return self
        order = np.random.default_rng(0).permutation(len(self))
        return self.take(np.sort(order[:count]))


@dataclasses.dataclass(frozen=True)
class EncodedExamples:
    """Examples as the model takes them: rows of ids, all padded to one length.

    An example that does not fit a row may have several.
    """

    input_ids: np.ndarray  # int32 [rows, T]
    segment_ids: np.ndarray  # int32 [rows, T]
    input_mask: np.ndarray  # int32 [rows, T], 1 on real tokens
    labels: np.ndarray  # [rows, ...], as the loss of the task takes them
    example: np.ndarray  # int32 [rows], number of the example that a row is of
    word: np.ndarray | None = None
    """int32 [rows, T]: number of the word that a token belongs to; -1 where that does not
    matter. `None` for tasks that label whole texts."""

    def __len__(self) -> int:
        """Rows."""
        return self.input_ids.shape[0]

    def batch(self, numbers: np.ndarray, batch_size: int) -> ClassifyBatch:
        """The rows `numbers`; copies of the first row fill up with weight 0."""
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


class RowBuilder:
    """Rows of `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, padded to one length.

    Source: Devlin et al. 2018, section 3 and figure 4.
    """

    def __init__(
        self, special: SpecialIds, num_rows: int, sequence_length: int
    ) -> None:
        shape = (num_rows, sequence_length)
        self.special = special
        self.input_ids = np.full(shape, special.pad, np.int32)
        self.segment_ids = np.zeros(shape, np.int32)
        self.input_mask = np.zeros(shape, np.int32)

    def put(self, row: int, parts: Sequence[Sequence[int]]) -> list[int]:
        """Fills a row; returns where each part begins in it."""
        starts = []
        end = 1
        self.input_ids[row, 0] = self.special.cls
        for segment, part in enumerate(parts):
            starts.append(end)
            stop = end + len(part)
            self.input_ids[row, end:stop] = part
            self.input_ids[row, stop] = self.special.sep
            self.segment_ids[row, end : stop + 1] = segment
            end = stop + 1
        self.input_mask[row, :end] = 1
        return starts


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the rows that is pure in (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(num_rows)


def require_file(path: pathlib.Path | None, suffixes: tuple[str, ...]) -> pathlib.Path:
    """The path of a labelled file, which is there and of a kind that can be read.

    Raises:
        ValueError: no path, or another kind of file.
        FileNotFoundError: nothing is there.
    """
    if path is None:
        raise ValueError(
            "The task has no file; pass --task.train FILE and --task.validation FILE."
        )
    if path.suffix not in suffixes:
        *others, last = suffixes
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{path}: unknown kind {path.suffix!r}; expected {expected}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should hold labelled text.")
    return path
