"""The plan of one epoch: which pairs there are, and which rows and batches they fill."""

import dataclasses
from typing import NamedTuple

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data.batches.buckets import fill_buckets
from bert_jax.data.batches.packing import pack
from bert_jax.data.batches.pairs import Pairs, make_pairs
from bert_jax.data.prepared.store import TokenStore

_ROWS_STREAM = 2  # number of this stream of random numbers; `make_pairs` has 1


class Epoch(NamedTuple):
    """Every pair of an epoch once, in the order in which rows use them."""

    pairs: Pairs
    row_starts: np.ndarray  # int64 [rows + 1], offsets in pairs; a row can be empty
    batch_starts: np.ndarray  # int64 [batches + 1], offsets in rows
    batch_lengths: np.ndarray  # int32 [batches], tokens of each row of a batch
    # Only the layout "buckets" plans batches; other layouts have 0 of them here.

    @property
    def num_rows(self) -> int:
        return self.row_starts.size - 1

    def rows(self, first: int, end: int) -> tuple[Pairs, np.ndarray]:
        """The pairs of rows [first, end), row after row, and how many each row holds."""
        starts = np.asarray(self.row_starts[first : end + 1])
        return self.pairs[int(starts[0]) : int(starts[-1])], np.diff(starts)


class EpochSize(NamedTuple):
    """How much an epoch holds."""

    num_pairs: int
    num_rows: int
    num_batches: int  # 0 unless the layout is "buckets"
    num_tokens: int
    """Real tokens, special tokens included."""
    num_places: int
    """Real tokens and padding."""


def size_of(epoch: Epoch, cfg: DataConfig) -> EpochSize:
    """Counts what an epoch of these settings holds."""
    if cfg.layout == "buckets":
        places = int((np.diff(epoch.batch_starts) * epoch.batch_lengths).sum())
    else:
        places = epoch.num_rows * cfg.sequence_length
    return EpochSize(
        num_pairs=len(epoch.pairs),
        num_rows=epoch.num_rows,
        num_batches=epoch.batch_lengths.size,
        num_tokens=int(epoch.pairs.num_tokens().sum(dtype=np.int64)),
        num_places=places,
    )


def plan_epoch(
    store: TokenStore,
    cfg: DataConfig,
    *,
    seed: int,
    number: int,
    batch_size: int | None = None,
) -> Epoch:
    """Plans epoch `number`; the result depends on the arguments alone.

    Planning takes about 70 bytes of memory per pair; the plan itself takes 25 per pair
    and 8 per row.

    Args:
        store: the tokens of the split.
        cfg: what pairs and rows are like.
        seed: seed of the run.
        number: number of the epoch.
        batch_size: rows of the global batch; needed for `layout="buckets"` only.

    Raises:
        ValueError: as `make_pairs`.
    """
    columns = dict(vars(make_pairs(store, cfg, seed=seed, epoch=number)))
    lengths = Pairs(**columns).num_tokens()
    rng = np.random.default_rng((seed, number, _ROWS_STREAM))
    batch_sizes, batch_lengths = np.zeros(0, np.int64), np.zeros(0, np.int32)
    if cfg.layout == "packed":
        order, sizes = pack(lengths, cfg.sequence_length, cfg.max_pairs_per_row, rng)
    elif cfg.layout == "buckets":
        assert batch_size is not None
        order, sizes, batch_sizes, batch_lengths = fill_buckets(
            lengths, cfg.buckets, batch_size, rng
        )
    else:
        order = rng.permutation(lengths.size)
        sizes = np.ones(lengths.size, np.int64)
    for field in dataclasses.fields(Pairs):
        # One by one, so that only one column is in memory twice.
        columns[field.name] = columns[field.name][order]
    return Epoch(Pairs(**columns), _starts(sizes), _starts(batch_sizes), batch_lengths)


def _starts(sizes: np.ndarray) -> np.ndarray:
    starts = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts
