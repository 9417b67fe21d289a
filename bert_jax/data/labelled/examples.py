"""What all labelled data has in common: examples, and the rows of ids made of them.

Shape suffixes: B rows of a batch, T tokens, G rows of a group.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.data.tokenizers.tokenizer import Tokenizer

Text = tuple[str, ...]  # one text, or a pair


@dataclasses.dataclass(frozen=True)
class Reading:
    """How examples were read, to show it to the user."""

    path: str = ""
    how: str = ""
    """Encoding, delimiter, meaning of quotes and columns, in words."""
    columns: tuple[str, ...] = ()
    """The text columns, then that of the label; empty for files without columns."""
    num_skipped: int = 0
    """Rows that were left out on request."""
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the file decides for the files beside it, by the names of `TaskConfig`."""


@dataclasses.dataclass(frozen=True)
class Examples(abc.ABC):
    """Labelled examples in the order of their file.

    Every field that is a tuple has an entry for each example, or is empty. The first field
    holds what is labelled.
    """

    @property
    @abc.abstractmethod
    def reading(self) -> Reading:
        """How they were read."""

    def __len__(self) -> int:
        return len(self._first_field())

    def _first_field(self) -> Sequence[Hashable]:
        return getattr(self, dataclasses.fields(self)[0].name)

    @abc.abstractmethod
    def records(self) -> Iterable[Any]:
        """Text and label of each example, as plain JSON values."""

    def shown(self) -> Iterator[tuple[str, str]]:
        """Text and label of each example, as people read them."""
        for record in self.records():
            *texts, truth = record
            if isinstance(truth, tuple):  # a set of labels
                truth = ", ".join(truth) or "no label"
            yield "\n".join(map(str, texts)), str(truth)

    def take(self, numbers: np.ndarray) -> Self:
        """The examples of these numbers, in that order."""
        taken = {
            name: tuple(values[n] for n in numbers)
            for name, values in vars(self).items()
            if isinstance(values, tuple) and values
        }
        return dataclasses.replace(self, **taken)

    def sha256(self) -> str:
        """Identity of the examples, their order included."""
        digest = hashlib.sha256()
        for record in self.records():
            digest.update(json.dumps(record).encode())
        return digest.hexdigest()

    def together(self) -> Sequence[Hashable]:
        """Of each example, what it has in common with those it may not be parted from.

        Files to train on and to judge on share none of these. Default: what is labelled,
        so that equal texts stay together.
        """
        return self._first_field()

    def sample(
        self, count: int | None, classes: Sequence[str] | None = None, seed: int = 0
    ) -> Self:
        """At most `count` of them, drawn at random, in file order.

        Files may be sorted, so the first ones would not do. A smaller sample is part of
        every larger one.

        Args:
            count: `None` takes all of them.
            classes: class of each example. Each class then has its share of the sample,
                and at least one example if `count` allows it.
        """
        if count is None or count >= len(self):
            return self
        order = np.random.default_rng(seed).permutation(len(self))
        if classes is not None:
            place, size = places_in_class(np.array(classes)[order])
            share = np.where(place == 0, 0.0, (place + 0.5) / size)
            order = order[np.argsort(share, kind="stable")]
        return self.take(np.sort(order[:count]))


def places_in_class(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each entry: its place among those of its class, and the size of the class."""
    _, of = np.unique(classes, return_inverse=True)
    sizes = np.bincount(of)
    place = np.zeros(of.size, np.int64)
    for number, size in enumerate(sizes):
        place[of == number] = np.arange(size)
    return place, sizes[of]


@dataclasses.dataclass(frozen=True)
class EncodedExamples:
    """Examples as the model takes them: rows of ids, all padded to one length.

    An example that does not fit a row may have several. If the rows of an example must
    be computed together, they are a group, and everything below counts groups as rows.
    """

    input_ids: np.ndarray  # int32 [rows, T]; with groups [rows, G, T]
    segment_ids: np.ndarray  # int32, as input_ids
    input_mask: np.ndarray  # int32, as input_ids, 1 on real tokens
    labels: np.ndarray  # [rows, ...], as the loss of the task takes them
    example: np.ndarray  # int32 [rows], number of the example that a row is of
    word: np.ndarray | None = None
    """int32 [rows, T]: number of the word that a token belongs to; -1 where that does not
    matter. `None` for tasks that label whole texts."""
    last_word: np.ndarray | None = None
    """As `word`, where a token may be a part of several words: the last of them. `None`:
    no token is."""
    num_cut: int = 0
    """Number of texts that are longer than a row."""
    lost: str = "lost their end"
    """What became of these texts, in words."""
    weights: np.ndarray | None = None
    """float32 [rows], how much a row counts in the loss. `None`: all count 1."""

    def __len__(self) -> int:
        """Rows."""
        return self.input_ids.shape[0]

    @property
    def group_size(self) -> int:
        """Rows of a group; 1 without groups."""
        return math.prod(self.input_ids.shape[1:-1])

    @functools.cached_property
    def num_tokens(self) -> np.ndarray:
        """int [rows], tokens of each row without padding; of a group, its longest row."""
        return self.input_mask.sum(axis=-1).reshape(len(self), -1).max(axis=1)

    def weighed(self, weights: np.ndarray) -> "EncodedExamples":
        """With these weights of the examples, float32 [examples], in their rows."""
        own = np.float32(1.0) if self.weights is None else self.weights
        return dataclasses.replace(self, weights=own * weights[self.example])

    def batch(
        self, numbers: np.ndarray, batch_size: int, length: int | None = None
    ) -> ClassifyBatch:
        """The rows `numbers`; copies of the first of them fill up with weight 0.

        Args:
            length: tokens to cut the rows to; only padding may be cut. Default: T.
        """
        filler = np.repeat(numbers[:1], batch_size - numbers.size)
        every = np.concatenate([numbers, filler])
        weights = np.zeros(batch_size, np.float32)
        weights[: numbers.size] = 1.0 if self.weights is None else self.weights[numbers]
        # As many labels as a row has tokens may also be the labels of a whole text.
        per_token = self.word is not None and self.labels.shape == self.input_ids.shape
        return ClassifyBatch(
            input_ids=self.input_ids[every, ..., :length],
            segment_ids=self.segment_ids[every, ..., :length],
            input_mask=self.input_mask[every, ..., :length],
            labels=self.labels[every, :length] if per_token else self.labels[every],
            weights=weights,
        )


class RowBuilder:
    """Rows of `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, padded to one length.

    The tokenizer decides about the number of [SEP] between A and B, and about segments.

    Source: Devlin et al. 2018, section 3 and figure 4.
    """

    def __init__(
        self, tokenizer: Tokenizer, num_rows: int, sequence_length: int
    ) -> None:
        shape = (num_rows, sequence_length)
        self.special, self.pair = tokenizer.special, tokenizer.pair
        self.input_ids = np.full(shape, self.special.pad, np.int32)
        self.segment_ids = np.zeros(shape, np.int32)
        self.input_mask = np.zeros(shape, np.int32)

    def put(self, row: int, parts: Sequence[Sequence[int]]) -> list[int]:
        """Fills a row; returns where each part begins in it."""
        starts = []
        end = 1
        self.input_ids[row, 0] = self.special.cls
        for number, part in enumerate(parts, 1):
            starts.append(end)
            stop = end + len(part)
            self.input_ids[row, end:stop] = part
            end = stop + (1 if number == len(parts) else self.pair.separators)
            self.input_ids[row, stop:end] = self.special.sep
        if len(parts) > 1:
            self.segment_ids[row, starts[1] : end] = self.pair.second_segment
        self.input_mask[row, :end] = 1
        return starts


# Of kinds of files that one task alone reads.
_TASK_OF_SUFFIX = {
    ".conll": "tokens",
    ".conllu": "tokens",
    ".iob": "tokens",
    ".iob2": "tokens",
    ".bio": "tokens",
    ".json": "spans",
}


def require_file(
    path: pathlib.Path | None, suffixes: tuple[str, ...], *, folder: bool = False
) -> pathlib.Path:
    """The path of a labelled file, which is there and of a kind that can be read.

    Args:
        suffixes: kinds that can be read, in small letters.
        folder: whether it may be a folder.

    Raises:
        ValueError: no path, or another kind of file.
        FileNotFoundError: nothing is there.
    """
    if path is None:
        raise ValueError(
            "The task lacks a file; pass --train FILE and --dev FILE, or --dev 0.1 to "
            "judge on a random tenth of the training file, which is not trained on then."
        )
    *others, last = suffixes
    expected = f"{', '.join(others)} or {last}" if others else last
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected a file that ends in {expected}."
        )
    if path.is_dir() and folder:
        return path
    if path.is_dir() or path.suffix.lower() not in suffixes:
        what = "is a folder" if path.is_dir() else f"unknown kind {path.suffix!r}"
        task = _TASK_OF_SUFFIX.get(path.suffix.lower())
        hint = f" Files with {path.suffix} are for --task {task}." if task else ""
        raise ValueError(
            f"{path}: {what}; expected a file that ends in {expected}.{hint}"
        )
    return path
