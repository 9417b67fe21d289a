"""Describes rows of a prepared dataset as text, as the model will see them."""

from collections.abc import Iterator

import jax
import numpy as np

from bert_jax.config import DataConfig, MaskingConfig
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.plural import plural
from bert_jax.data.prepared.dataset import PreparedDataset
from bert_jax.model.masking import mask_tokens
from bert_jax.model.random_bits import root_key
from bert_jax.runtime.jax_settings import our_settings

# To find a row, the epochs before it are planned; a small one takes about 10 ms.
_MOST_EPOCHS = 1_000
# Meaning of the labels 0 and 1 of a pair.
_LABELS = {
    "next_sentence": ("B follows A", "B is random"),
    "sentence_order": ("B follows A", "swapped: A follows B"),
}


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
    """Describes each row: its pairs or segments, their labels, and the tokens after masking.

    A hidden token is written `[shown|was TRUTH]`, where `shown` is [MASK], another token
    or the token itself. Pairs that training would put into buckets are shown in padded
    rows.

    Raises:
        ValueError: the rows are too many or lie too far behind.
    """
    tokenizer = dataset.tokenizer
    rows = open_rows(dataset, split, data.without_buckets, seed=seed)
    in_epoch = rows.size(0).num_rows
    if first_row + num_rows > _MOST_EPOCHS * in_epoch:
        raise ValueError(
            f"--first-row {first_row} and --rows {num_rows} are too large: an epoch of the "
            f"split {split!r} has about {plural(in_epoch, 'row')} here, and rows of the "
            f"first {_MOST_EPOCHS:,} epochs can be shown."
        )
    batch = rows.batch(first_row, num_rows)
    with our_settings():
        key = root_key(seed)
        masked = jax.device_get(
            mask_tokens(masking, batch, tokenizer.mask_vocabulary, key)
        )
    for row in range(num_rows):
        real = int((batch.sequence_ids[row] > 0).sum())
        hidden = int(masked.weights[row].sum())
        pairs = int(batch.sequence_ids[row].max())
        unit = "pair" if data.has_labels else "segment"
        yield (
            f"row {first_row + row}: {plural(pairs, unit)}, {real} of "
            f"{data.sequence_length} tokens, {hidden} hidden"
        )
        slots = masked.positions[row][masked.weights[row] > 0]
        for pair in range(1, pairs + 1):
            where = np.flatnonzero(batch.sequence_ids[row] == pair)
            label = ""
            if batch.nsp_weights[row, pair - 1]:
                label = f", {_LABELS[data.pairs][batch.nsp_labels[row, pair - 1]]}"
            yield f"  {unit} {pair}{label}"
            for segment, name in ((0, "A"), (1, "B")):
                part = where[batch.segment_ids[row][where] == segment]
                if part.size:
                    text = _words(
                        tokenizer.shown_pieces, batch, masked, row, part, slots
                    )
                    yield f"    {name}: {text}"


def _words(pieces, batch, masked, row, part, slots):  # type: ignore[no-untyped-def]
    words = []
    for position in part:
        shown = pieces[masked.input_ids[row, position]]
        if position in slots:
            shown = f"[{shown}|was {pieces[batch.input_ids[row, position]]}]"
        words.append(shown)
    return " ".join(words)
