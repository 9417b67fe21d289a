"""The contract between data and training: what one batch holds.

Shape suffixes: B rows, T tokens of a row, P pairs that a row can hold.
"""

import dataclasses
from typing import Any, NamedTuple

# Of a token that has no label of its own, such as padding or a word's later pieces.
IGNORED_LABEL = -100

# NumPy on the way in, jax.Array inside the step, specs and shardings in between.
Array = Any


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids that masking and assembly must know; read from the tokenizer."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


class PretrainBatch(NamedTuple):
    """Rows of one or several sentence pairs, before masking.

    A token attends to the tokens with its own sequence id; id 0 is padding.
    """

    input_ids: Array  # int32 [B, T]
    segment_ids: Array  # int32 [B, T], 0 for sentence A, 1 for sentence B
    sequence_ids: Array  # int32 [B, T], 1, 2, ... per pair of the row, 0 on padding
    position_ids: Array  # int32 [B, T], from 0 in each pair
    cls_positions: Array  # int32 [B, P], where each pair's [CLS] stands
    nsp_labels: Array  # int32 [B, P], 0 = B follows A, 1 = B is random
    nsp_weights: Array  # float32 [B, P], 1 for a pair with a label, else 0


class ClassifyBatch(NamedTuple):
    """One labelled text, or pair of texts, a row."""

    input_ids: Array  # int32 [B, T]
    segment_ids: Array  # int32 [B, T]
    input_mask: Array  # int32 [B, T], 1 on real tokens
    labels: Array  # int32 [B]
    weights: Array  # float32 [B], 0 on rows that only fill the batch up
