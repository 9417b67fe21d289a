"""Rows of a prepared dataset in words, as the model will see them."""

from collections.abc import Iterator

import jax
import numpy as np

from bert_jax.config import DataConfig, MaskingConfig
from bert_jax.data.dataset import PreparedDataset
from bert_jax.data.loader import PretrainRows
from bert_jax.model.masking import mask_tokens


def describe_rows(
    dataset: PreparedDataset,
    data: DataConfig,
    masking: MaskingConfig,
    *,
    split: str,
    first_row: int,
    num_rows: int,
    seed: int,
) -> Iterator[str]:
    """For each row: its pairs, their labels, and the tokens after masking.

    A hidden token is written `[shown|was TRUTH]`: as [MASK], as another token, or as
    itself.
    """
    tokenizer = dataset.tokenizer
    rows = PretrainRows(dataset.load_split(split), data, tokenizer.special, seed=seed)
    batch = rows.batch(first_row, num_rows)
    masked = jax.device_get(
        mask_tokens(masking, batch, tokenizer.mask_vocabulary, jax.random.key(seed))
    )
    for row in range(num_rows):
        real = int((batch.sequence_ids[row] > 0).sum())
        hidden = int(masked.weights[row].sum())
        pairs = int(batch.sequence_ids[row].max())
        yield (
            f"row {first_row + row}: {pairs} pair(s), {real} of "
            f"{data.sequence_length} tokens, {hidden} hidden"
        )
        slots = masked.positions[row][masked.weights[row] > 0]
        for pair in range(1, pairs + 1):
            where = np.flatnonzero(batch.sequence_ids[row] == pair)
            label = ""
            if batch.nsp_weights[row, pair - 1]:
                is_random = batch.nsp_labels[row, pair - 1] == 1
                label = ", B is random" if is_random else ", B follows A"
            yield f"  pair {pair}{label}"
            for segment, name in ((0, "A"), (1, "B")):
                part = where[batch.segment_ids[row][where] == segment]
                if part.size:
                    text = _words(tokenizer.pieces, batch, masked, row, part, slots)
                    yield f"    {name}: {text}"


def _words(pieces, batch, masked, row, part, slots):  # type: ignore[no-untyped-def]
    words = []
    for position in part:
        shown = pieces[masked.input_ids[row, position]]
        if position in slots:
            shown = f"[{shown}|was {pieces[batch.input_ids[row, position]]}]"
        words.append(shown)
    return " ".join(words)
