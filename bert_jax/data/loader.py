"""The batch of step s, as a function of (seed, s); Grain prepares it ahead of time.

Rows of all epochs form one endless sequence and step s takes rows [s * B, (s + 1) * B)
of it, whatever the number of hosts: each host assembles its own part.
"""

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import DataConfig
from bert_jax.data.packing import NO_PAIR, assemble, pack
from bert_jax.data.pairs import Pairs, TokenStore, make_pairs

Batch = TypeVar("Batch")
_ROWS_STREAM = 2  # of random numbers; that of `make_pairs` is 1


class Epoch(NamedTuple):
    pairs: Pairs
    rows: np.ndarray  # int32 [R, P], numbers of pairs


class PretrainRows:
    """All rows of a split, epoch after epoch, by number."""

    def __init__(
        self, store: TokenStore, cfg: DataConfig, special: SpecialIds, *, seed: int
    ) -> None:
        self.store, self.cfg, self.special, self.seed = store, cfg, special, seed
        self._lock = threading.Lock()
        self._epochs: dict[int, Epoch] = {}
        self._first_row = [0]  # of each epoch seen so far, and of the next one

    def epoch(self, number: int) -> Epoch:
        """Plans an epoch; the last two stay in memory."""
        if number not in self._epochs:
            cfg = self.cfg
            pairs = make_pairs(self.store, cfg, seed=self.seed, epoch=number)
            rng = np.random.default_rng((self.seed, number, _ROWS_STREAM))
            if cfg.packing:
                lengths = pairs.num_tokens()
                rows = pack(lengths, cfg.sequence_length, cfg.max_pairs_per_row, rng)
            else:
                rows = rng.permutation(len(pairs)).astype(np.int32)[:, None]
            for old in [n for n in self._epochs if n < number - 1]:
                del self._epochs[old]
            self._epochs[number] = Epoch(pairs, rows)
        return self._epochs[number]

    def batch(self, first_row: int, num_rows: int) -> PretrainBatch:
        """Assembles rows [first_row, first_row + num_rows) of the endless sequence."""
        parts = []
        while num_rows:
            epoch, start = self._locate(first_row)
            rows = epoch.rows[start : start + num_rows]
            parts.append(self.assemble(epoch, rows))
            first_row += len(rows)
            num_rows -= len(rows)
        return PretrainBatch(*(np.concatenate(c) for c in zip(*parts, strict=True)))

    def assemble(self, epoch: Epoch, rows: np.ndarray) -> PretrainBatch:
        return assemble(
            self.store,
            epoch.pairs,
            rows,
            self.cfg.sequence_length,
            self.cfg.pairs_per_row,
            self.special,
            next_sentence=self.cfg.next_sentence,
        )

    def _locate(self, row: int) -> tuple[Epoch, int]:
        """The epoch that holds a row of the endless sequence, and the row within it."""
        with self._lock:
            while row >= self._first_row[-1]:
                planned = self.epoch(len(self._first_row) - 1)
                self._first_row.append(self._first_row[-1] + len(planned.rows))
            number = int(np.searchsorted(self._first_row, row, side="right")) - 1
            return self.epoch(number), row - self._first_row[number]


def train_batches(
    rows: PretrainRows,
    *,
    batch_size: int,
    first_step: int,
    num_steps: int,
    host: int = 0,
    num_hosts: int = 1,
) -> Iterator[PretrainBatch]:
    """This host's part of the batches of steps [first_step, num_steps).

    Args:
        batch_size: rows of the global batch; `num_hosts` must divide it.

    Raises:
        ValueError: the hosts cannot share the batch evenly.
    """
    if batch_size % num_hosts:
        raise ValueError(
            f"batch_size={batch_size} cannot be shared by {num_hosts} hosts; make it "
            f"a multiple of {num_hosts}."
        )
    share = batch_size // num_hosts

    def of_step(step: int) -> PretrainBatch:
        return rows.batch(step * batch_size + host * share, share)

    return prefetched(of_step, first_step, num_steps, rows.cfg.num_threads)


def evaluation_batches(
    rows: PretrainRows, *, batch_size: int, max_batches: int
) -> Iterator[PretrainBatch]:
    """The rows of epoch 0, each once, at most `max_batches`; the last is filled up.

    Rows that fill up are padding only and count nowhere.
    """
    epoch = rows.epoch(0)
    for start in range(0, min(len(epoch.rows), max_batches * batch_size), batch_size):
        chosen = epoch.rows[start : start + batch_size]
        filler = np.full((batch_size - len(chosen), chosen.shape[1]), NO_PAIR, np.int32)
        yield rows.assemble(epoch, np.concatenate([chosen, filler]))


def prefetched(
    make: Callable[[int], Batch], first: int, end: int, num_threads: int
) -> Iterator[Batch]:
    """`make(first), ..., make(end - 1)`, computed ahead of time in Grain's threads."""
    numbers = grain.MapDataset.range(first, end)
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=4 * num_threads
    )
    return iter(numbers.map(make).to_iter_dataset(options))
