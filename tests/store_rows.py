"""The rows of a store that belongs to no prepared dataset."""

import hashlib
import pathlib
import shutil
import tempfile
import weakref
from typing import Any

from bert_jax.batch import SpecialIds
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
