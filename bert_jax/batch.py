"""What one batch holds: the contract between data and training.

Shape suffixes: B rows or groups of rows, G rows of a group, T tokens in a row, P pairs
that a row can hold.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

# The label of a token that does not count: padding, or a later piece of a word.
IGNORED_LABEL = -100

# NumPy arrays outside the train step, jax.Array inside it; some trees of the same form
# hold shapes, partition specs or shardings in place of arrays.
Array = Any


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens, read from the tokenizer."""

    pad: int
    unk: int | None
    """None: the tokenizer can spell everything and has no such token."""
    cls: int
    sep: int
    mask: int


@dataclasses.dataclass(frozen=True, eq=False)
class MaskVocabulary:
    """What masking must know about a vocabulary; `Tokenizer.mask_vocabulary` builds it.

    An object is equal only to itself, so that `jax.jit` can take it as a static argument.

    Raises:
        ValueError: `starts_word` is not bool [size], or a special id is outside it.
    """

    special: SpecialIds
    size: int
    """V, the number of pieces. Random tokens are drawn from [0, V); the padding of the
    token table is left out."""
    starts_word: np.ndarray
    """bool [V], true where a piece begins a word."""

    def __post_init__(self) -> None:
        if self.starts_word.shape != (self.size,) or self.starts_word.dtype != bool:
            raise ValueError(
                f"MaskVocabulary.starts_word is {self.starts_word.dtype} "
                f"{list(self.starts_word.shape)}; expected bool [{self.size}], one "
                "entry for each piece of the tokenizer."
            )
        for name, index in dataclasses.asdict(self.special).items():
            if index is not None and not 0 <= index < self.size:
                raise ValueError(
                    f"SpecialIds.{name}={index} is outside [0, {self.size}), the "
                    "pieces of this MaskVocabulary; take both from one tokenizer."
                )


class PretrainBatch(NamedTuple):
    """Rows of one or several sentence pairs, before masking.

    A token attends to the tokens with its own sequence id; id 0 is padding.
    """

    input_ids: Array  # int32 [B, T]
    segment_ids: Array  # int32 [B, T], 0 for sentence A, 1 for sentence B
    sequence_ids: Array  # int32 [B, T], 1, 2, ... per pair of the row, 0 on padding
    position_ids: Array  # int32 [B, T], counted from 0 in each pair
    cls_positions: Array  # int32 [B, P], position of each pair's [CLS]
    nsp_labels: Array  # int32 [B, P], 0 = B follows A, 1 = B is random
    nsp_weights: Array  # float32 [B, P], 1 for a pair with a label, else 0


class ClassifyBatch(NamedTuple):
    """Labelled examples, each of one row: a text, or a pair of texts.

    An example of several rows that belong together, such as the choices of a question,
    has them on an axis of its own: its arrays of tokens are [B, G, T].
    """

    input_ids: Array  # int32 [B, T] or [B, G, T]
    segment_ids: Array  # int32 as input_ids
    input_mask: Array  # int32 as input_ids, 1 on real tokens
    labels: Array  # int32 or float32 [B, ...], as the task encodes them
    weights: Array  # float32 [B], 0 on examples that only fill up the batch
