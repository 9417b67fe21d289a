"""Computes batches ahead of time, in step order, in threads or processes of Grain."""

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import grain
import numpy as np
from absl import flags
from grain.multiprocessing import SharedMemoryArray

from bert_jax.batch import PretrainBatch
from bert_jax.data.batches.mixture import MixedRows
from bert_jax.data.batches.rows import PretrainRows, joined, runs
from bert_jax.data.worker_lifetime import (
    STOP_SIGNALS,
    end_with_the_parent,
    kept_from,
)

Batch = TypeVar("Batch")

# Grain 0.2.18 reads this flag even if absl's flags were not parsed, and then fails
# (google/grain#1355).
_GRAIN_FLAG = "grain_enable_multiprocess_worker_profiling"


def train_batches(
    rows: PretrainRows | MixedRows,
    *,
    batch_size: int,
    first_step: int,
    num_steps: int,
    parts: tuple[int, ...] = (0,),
    num_parts: int = 1,
    first_row: int = 0,
) -> Generator[PretrainBatch, None, None]:
    """Yields some parts of the batches of steps [first_step, num_steps).

    A batch depends on `rows` and its step alone, not on `first_step` nor on the number
    of hosts, threads or workers.

    Args:
        rows: the rows of the training split.
        batch_size: rows of the global batch; with buckets, rows of a batch of the
            longest rows. It must be a multiple of `num_parts`.
        first_step: number of the first step.
        num_steps: number behind the last step.
        parts: numbers of the parts to load, ascending: those that this host's devices
            hold.
        num_parts: number of equal parts of a batch.
        first_row: number of the first row of step 0. Buckets have no numbers of rows and
            begin with their first batch.

    Raises:
        ValueError: a batch has no such equal parts, or `rows` was planned for
            batches of another size.
    """
    if batch_size % num_parts:
        raise ValueError(
            f"batch_size={batch_size} has no {num_parts} equal parts; make it a "
            f"multiple of {num_parts}."
        )
    if rows.batch_size not in (None, batch_size):
        raise ValueError(
            f"batch_size={batch_size}, but the buckets were planned for batches of "
            f"{rows.batch_size}; give PretrainRows the same batch_size."
        )
    make = _MakeBatch(rows, batch_size, num_steps, parts, num_parts, first_row)
    cfg = rows.cfg
    return prefetched(make, first_step, num_steps, cfg.num_threads, cfg.num_workers)


@dataclasses.dataclass(frozen=True)
class _MakeBatch:
    """Makes the batch of a step; is sent to worker processes."""

    rows: PretrainRows | MixedRows
    batch_size: int
    num_steps: int
    parts: tuple[int, ...]
    num_parts: int
    first_row: int

    def __call__(self, step: int) -> PretrainBatch:
        places, first = self.batch_size, self.first_row
        if self.rows.batch_size is not None:
            places, first = 1, 0
        self.rows.plan_ahead(first + step * places, first + self.num_steps * places)
        return self.rows.batch_of_step(
            step,
            batch_size=self.batch_size,
            parts=self.parts,
            num_parts=self.num_parts,
            first_row=first,
        )


def evaluation_batches(
    rows: PretrainRows,
    *,
    batch_size: int,
    max_batches: int,
    parts: tuple[int, ...] = (0,),
    num_parts: int = 1,
) -> Iterator[PretrainBatch]:
    """Yields some parts of batches that hold each row of epoch 0 once.

    The last batch is filled with rows of padding, which have no weight in any loss. All
    batches have one shape, so `rows` must not have `layout="buckets"`.

    Args:
        rows: the rows of the validation split.
        batch_size: rows of the global batch; a multiple of `num_parts`.
        max_batches: most batches to yield.
        parts: numbers of the parts to load, ascending.
        num_parts: number of equal parts of a batch.
    """
    assert rows.cfg.layout != "buckets"
    assert batch_size % num_parts == 0
    epoch, size = rows.epoch(0), batch_size // num_parts
    for start in range(0, min(epoch.num_rows, max_batches * batch_size), batch_size):
        found = []
        for part, count in runs(parts):
            first = min(start + part * size, epoch.num_rows)
            end = min(first + count * size, epoch.num_rows)
            found.append(rows.assemble(epoch, first, end, num_rows=count * size))
        yield joined(found)


def prefetched(
    make: Callable[[int], Batch],
    first: int,
    end: int,
    num_threads: int,
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """Yields `make(first), ..., make(end - 1)`, computed ahead of time by Grain.

    Work begins at the first `next`. Threads and processes end when the iterator is
    closed or no longer referenced.

    Args:
        make: makes the batch of a number. If there are workers, it must pickle and must
            not use JAX's devices.
        first: the first number.
        end: the first number that is not made.
        num_threads: number of threads of this process, or of each worker.
        num_workers: number of worker processes; 0 uses threads of this process.
    """
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=4 * num_threads
    )
    numbers = grain.MapDataset.range(first, end)
    batches = numbers.map(make).to_iter_dataset(options)
    if num_workers:
        if _GRAIN_FLAG in flags.FLAGS:
            flags.FLAGS[_GRAIN_FLAG].present = 1  # It keeps its default.
        # Shared memory is freed at once. A thread that frees it would be cut off at exit.
        SharedMemoryArray.enable_async_del(max_outstanding_requests=1)
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=num_workers, per_worker_buffer_size=2
            ),
            worker_init_fn=_begin_worker,
        )
        # Each array of a worker holds shared memory and a file descriptor until it is
        # deleted, here in a thread: in the main thread, the exception of a signal that
        # stops the run would be lost in the deletion, and the memory would leak.
        made = iter(batches.map(_copied))
        iterator = grain.experimental.ThreadPrefetchDatasetIterator(made, 1)
    else:
        made = iterator = iter(batches)
    try:
        with kept_from(STOP_SIGNALS) if num_workers else contextlib.nullcontext():
            made.start_prefetch()  # else a worker starts when its first batch is due
            batch = next(iterator, None)
        while batch is not None:
            yield batch
            batch = next(iterator, None)
    finally:
        iterator.close()
        if num_workers:
            # Grain's last exception refers to a batch in a cycle. Without this, its
            # shared memory would be reported as leaked at exit.
            gc.collect()


def _begin_worker(index: int, count: int) -> None:
    end_with_the_parent()


def _copied(batch: Any) -> Any:
    return type(batch)(*(np.array(array) for array in batch))


class InputClock(Generic[Batch]):
    """Passes batches on, and measures the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._waited += time.perf_counter() - start

    def take(self) -> float:
        """Seconds spent waiting since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Ends the threads and processes that make the batches."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
