"""Groups of rows: the texts of one example, which the model reads one by one.

Shape suffixes: G rows of a group, T tokens.
"""

from collections.abc import Sequence

import numpy as np

from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.data.tokenizers.tokenizer import Tokenizer

Groups = Sequence[Sequence[tuple[str, ...]]]


def encode_groups(
    tokenizer: Tokenizer, groups: Groups, labels: np.ndarray, sequence_length: int
) -> EncodedExamples:
    """Rows as `encode_texts` makes them, with an axis for the rows of a group.

    Args:
        groups: texts or pairs of each group. The longest group sets G; the rows that the
            others lack hold no token.
        labels: [groups, ...], int32 or float32.

    Returns:
        Arrays of tokens are int32 [groups, G, T].
    """
    flat = [text for group in groups for text in group]
    rows = encode_texts(tokenizer, flat, np.zeros(len(flat), np.int32), sequence_length)
    sizes = np.array([len(group) for group in groups])
    there = np.arange(sizes.max(initial=1))[None, :] < sizes[:, None]

    def placed(flat_RT: np.ndarray) -> np.ndarray:
        placed_NGT = np.zeros((*there.shape, sequence_length), np.int32)
        placed_NGT[there] = flat_RT
        return placed_NGT

    return EncodedExamples(
        placed(rows.input_ids),
        placed(rows.segment_ids),
        placed(rows.input_mask),
        labels=labels,
        example=np.arange(len(groups), dtype=np.int32),
        num_cut=rows.num_cut,
    )
