"""Runs a function in worker processes, with progress that moves while it works."""

import concurrent.futures
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bert_jax.data.worker_lifetime import (
    end_with_the_parent,
    kept_from,
    terminate_workers,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
# Called with the number of source bytes, on disk, that were read since the last call.
Progress = Callable[[int], None]

# Sentences and their ids are many objects, of which none hold each other. Python looks for
# those that do each time so many are new, 700 by default, which takes 5 % of the time.
NEW_OBJECTS = 50_000
_REPORT_EVERY_SECS = 0.5
_REPORT_EVERY_BYTES = 1 << 18

_done_bytes: Any = None  # in a worker process: the counter that all workers share


def map_in_workers(
    work: Callable[[Item, Progress], Result],
    items: Sequence[Item],
    *,
    num_workers: int | None,
    report: Callable[[int], None],
) -> list[Result]:
    """Calls `work` on every item; the results have the order of the items.

    Args:
        work: a function at the top of a module. It takes an item and a `Progress` to
            call while it works.
        items: what to work on; must pickle if there are several workers.
        num_workers: number of processes. `None` starts one per core; 1 starts none and
            works in this process.
        report: called about twice a second with the sum of all bytes read so far.

    Raises:
        ChildProcessError: a worker process was killed.
    """
    if num_workers == 1 or len(items) <= 1:
        meter, before = _Meter(report), gc.get_threshold()
        gc.set_threshold(NEW_OBJECTS)
        try:
            results = [work(item, meter.add) for item in items]
        finally:
            gc.set_threshold(*before)
        meter.flush()
        return results
    # Threads of the parent (JAX, TensorStore) make a fork unsafe.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=min(num_workers or os.cpu_count() or 1, len(items)),
        mp_context=context,
        initializer=_begin_worker,
        initargs=(counter,),
    ) as pool:
        with kept_from([signal.SIGINT]):
            futures = [pool.submit(_in_worker, work, item) for item in items]
        try:
            left = set(futures)
            while left:
                finished, left = concurrent.futures.wait(
                    left,
                    timeout=_REPORT_EVERY_SECS,
                    return_when=concurrent.futures.FIRST_EXCEPTION,
                )
                for future in finished:
                    future.result()
                report(counter.value)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ChildProcessError(
                "A worker process was killed, perhaps because the memory was full, or "
                "ended with the error above. Start the same command again: it continues, "
                "and finished shards are kept. A smaller --num-workers needs less memory."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            terminate_workers()
            raise
        return [future.result() for future in futures]


class _Meter:
    """Adds up bytes and reports the sum from time to time."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report, self._total, self._reported = report, 0, 0

    def add(self, count: int) -> None:
        self._total += count
        if self._total - self._reported >= _REPORT_EVERY_BYTES:
            self.flush()

    def flush(self) -> None:
        self._reported = self._total
        self._report(self._total)


def _begin_worker(counter: Any) -> None:
    global _done_bytes
    _done_bytes = counter
    gc.set_threshold(NEW_OBJECTS)
    end_with_the_parent()


def _in_worker(work: Callable[[Item, Progress], Result], item: Item) -> Result:
    counted = 0

    def report(total: int) -> None:
        nonlocal counted
        with _done_bytes.get_lock():
            _done_bytes.value += total - counted
        counted = total

    meter = _Meter(report)
    result = work(item, meter.add)
    meter.flush()
    return result
