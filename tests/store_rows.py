"""The rows of a store that belongs to no prepared dataset, and whether batches are the same."""

import hashlib
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import DataConfig
from bert_jax.data.batches.rows import PretrainRows
from bert_jax.data.prepared.store import TokenStore


def rows_of_store(
    store: TokenStore,
    cfg: DataConfig,
    special: SpecialIds,
    *,
    plan_dir: pathlib.Path | None = None,
    **options: Any,
) -> PretrainRows:
    """`PretrainRows` with nothing planned; its plans go with it unless `plan_dir` is given."""
    bounds = (store.sentence_starts, store.document_starts)
    identity = hashlib.sha256(b"".join(x.tobytes() for x in bounds)).hexdigest()
    folder = plan_dir or pathlib.Path(tempfile.mkdtemp(prefix="bert_jax-plans-"))
    rows = PretrainRows(
        store, cfg, special, plan_dir=folder, identity=identity, **options
    )
    if plan_dir is None:
        weakref.finalize(rows, shutil.rmtree, folder, ignore_errors=True)
    return rows


def joined(batches: Iterable[PretrainBatch]) -> PretrainBatch:
    """One batch of the rows of all."""
    return PretrainBatch(*map(np.concatenate, zip(*batches, strict=True)))


def assert_same(actual: PretrainBatch, expected: PretrainBatch, hint: Any = "") -> None:
    for name in PretrainBatch._fields:
        one, other = getattr(actual, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, f"{name} {hint}")
