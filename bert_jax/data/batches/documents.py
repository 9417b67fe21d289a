"""Which documents a batch of pretraining was made from."""

from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.data.batches.epochs import Epoch
from bert_jax.data.batches.mixture import MixedRows
from bert_jax.data.batches.rows import PretrainRows
from bert_jax.data.prepared.dataset import PreparedDataset


def documents_of_batch(
    datasets: Sequence[PreparedDataset],
    rows: PretrainRows | MixedRows,
    step: int,
    *,
    batch_size: int,
    first_row: int = 0,
) -> dict[str, list[str]]:
    """The keys of all documents with text in the batch of a step, under "documents".

    Of a mixture, a key stands behind the name of its dataset's folder and a colon.

    Args:
        datasets: their split "train" is read.
        rows: the rows of that split, or of those splits.
        step: number of the step.
        batch_size: rows of the global batch.
        first_row: number of the first row of step 0; buckets ignore it.
    """
    first, end = first_row + step * batch_size, first_row + (step + 1) * batch_size
    if rows.batch_size is not None:
        first, end = step, step + 1  # with buckets, a place is a batch
    if isinstance(rows, PretrainRows):
        return {"documents": _keys(datasets[0], rows, first, end)}
    found = []
    for number, (dataset, own) in enumerate(zip(datasets, rows.sources, strict=True)):
        keys = _keys(dataset, own, *rows.places_of(number, first, end))
        found += [f"{dataset.directory.name}:{key}" for key in keys]
    return {"documents": found}


def _keys(
    dataset: PreparedDataset, rows: PretrainRows, first: int, end: int
) -> list[str]:
    """The keys of the documents in places [first, end) of a dataset's rows."""
    store = rows.store
    found: set[int] = set()
    for epoch, first_row, end_row in _ranges(rows, first, end):
        pairs, _ = epoch.rows(first_row, end_row)
        tokens = np.concatenate([pairs.a_start, pairs.b_start[pairs.has_label]])
        sentences = np.searchsorted(store.sentence_starts, tokens, side="right") - 1
        numbers = np.searchsorted(store.document_starts, sentences, side="right") - 1
        found.update(numbers.tolist())
    return dataset.document_keys("train", sorted(found))


def _ranges(
    rows: PretrainRows, place: int, end_place: int
) -> Iterator[tuple[Epoch, int, int]]:
    """The rows of some places, as ranges of rows of epochs."""
    while place < end_place:
        number, first = rows.locate(place)
        epoch = rows.epoch(number)
        if rows.cfg.layout == "buckets":
            start, end = epoch.batch_starts[first : first + 2].tolist()
            yield epoch, start, end
            place += 1
            continue
        end = min(first + end_place - place, epoch.num_rows)
        yield epoch, first, end
        place += end - first
