"""Batches computed ahead of time by Grain's threads or processes, in order of steps."""

import contextlib
import dataclasses
import gc
import signal
import time
from collections.abc import Callable, Generator, Iterator
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar

import grain
import numpy as np
from absl import flags
from grain.multiprocessing import SharedMemoryArray

from bert_jax.batch import PretrainBatch
from bert_jax.data.batches.rows import PretrainRows, joined, runs
from bert_jax.data.orphans import end_with_the_parent

Batch = TypeVar("Batch")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Grain 0.2.18 reads it where nobody parsed absl's flags, and fails (google/grain#1355).
_GRAIN_FLAG = "grain_enable_multiprocess_worker_profiling"


def train_batches(
    rows: PretrainRows,
    *,
    batch_size: int,
    first_step: int,
    num_steps: int,
    parts: tuple[int, ...] = (0,),
    num_parts: int = 1,
) -> Generator[PretrainBatch, None, None]:
    """Some parts of the batches of steps [first_step, num_steps).

    They depend on `rows` and the step alone: not on `first_step`, the number of hosts,
    threads or workers.

    Args:
        batch_size: rows of the global batch, or with buckets of a batch of the longest
            bucket; `num_parts` must divide it.
        parts: of each batch, ascending: those that this host's devices hold.
        num_parts: equal parts of a batch.

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
    make = _OfStep(rows, batch_size, num_steps, parts, num_parts)
    cfg = rows.cfg
    return prefetched(make, first_step, num_steps, cfg.num_threads, cfg.num_workers)


@dataclasses.dataclass(frozen=True)
class _OfStep:
    """A step's batch; travels to worker processes."""

    rows: PretrainRows
    batch_size: int
    num_steps: int
    parts: tuple[int, ...]
    num_parts: int

    def __call__(self, step: int) -> PretrainBatch:
        units = self.batch_size if self.rows.batch_size is None else 1
        self.rows.plan_ahead(step * units, self.num_steps * units)
        return self.rows.batch_of_step(
            step,
            batch_size=self.batch_size,
            parts=self.parts,
            num_parts=self.num_parts,
        )


def evaluation_batches(
    rows: PretrainRows,
    *,
    batch_size: int,
    max_batches: int,
    parts: tuple[int, ...] = (0,),
    num_parts: int = 1,
) -> Iterator[PretrainBatch]:
    """Some parts of the batches of epoch 0's rows, each row once.

    The last of at most `max_batches` is filled up with rows of padding, which count nowhere. All batches
    have one shape: `rows` must not be of `layout="buckets"`.
    """
    assert rows.cfg.layout != "buckets"
    assert batch_size % num_parts == 0
    epoch, share = rows.epoch(0), batch_size // num_parts
    for start in range(0, min(epoch.num_rows, max_batches * batch_size), batch_size):
        found = []
        for part, count in runs(parts):
            first = min(start + part * share, epoch.num_rows)
            end = min(first + count * share, epoch.num_rows)
            found.append(rows.assemble(epoch, first, end, num_rows=count * share))
        yield joined(found)


def prefetched(
    make: Callable[[int], Batch],
    first: int,
    end: int,
    num_threads: int,
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """`make(first), ..., make(end - 1)`, computed ahead of time by Grain.

    Work begins at the first `next`. Closing the iterator, or letting go of it, ends
    threads and processes.

    Args:
        make: for `num_workers` it must pickle, and leave JAX's devices alone.
        num_threads: of this process, or of each worker.
        num_workers: processes; 0 for threads of this one only.
    """
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=4 * num_threads
    )
    numbers = grain.MapDataset.range(first, end)
    batches = numbers.map(make).to_iter_dataset(options)
    if num_workers:
        if _GRAIN_FLAG in flags.FLAGS:
            flags.FLAGS[_GRAIN_FLAG].present = 1  # with its default
        # Shared memory is let go at once, not by a thread that an exit cuts off.
        SharedMemoryArray.enable_async_del(max_outstanding_requests=1)
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=num_workers, per_worker_buffer_size=2
            ),
            worker_init_fn=_begin_worker,
        )
    iterator = iter(batches)
    try:
        with _stop_signals_blocked() if num_workers else contextlib.nullcontext():
            batch = next(iterator, None)
        while batch is not None:
            # Arrays of a worker hold shared memory, and a file descriptor each.
            yield _copied(batch) if num_workers else batch
            batch = next(iterator, None)
    finally:
        iterator.close()
        if num_workers:
            # Grain's last exception holds a batch in a cycle; at exit its shared memory
            # would be reported as leaked.
            gc.collect()


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Processes started within never see SIGINT and SIGTERM: their parent ends them.

    A terminal and many schedulers send them to every process of a group, and a run
    that wants to save a checkpoint first still needs its next batch.
    """
    resource_tracker.ensure_running()  # its start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(index: int, count: int) -> None:
    end_with_the_parent()


def _copied(batch: Any) -> Any:
    return type(batch)(*(np.array(array) for array in batch))


class InputClock(Generic[Batch]):
    """Passes batches on and counts the seconds that were spent waiting for them."""

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
        """Seconds waited since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Ends the threads and processes behind the batches."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
