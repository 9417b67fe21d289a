"""Runs jobs in worker processes, with progress that moves while a job runs."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bert_jax.data.orphans import end_with_the_parent

Job = TypeVar("Job")
Result = TypeVar("Result")
# Takes the bytes of the source, on disk, that were worked through since the last call.
Progress = Callable[[int], None]

_REPORT_EVERY_SECS = 0.5
_REPORT_EVERY_BYTES = 1 << 18

_done_bytes: Any = None  # of a worker process: the counter that all of them share


def run_jobs(
    work: Callable[[Job, Progress], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int | None,
    report: Callable[[int], None],
) -> list[Result]:
    """`work` on every job; the results in the order of the jobs.

    Args:
        work: a function of a module; takes a job and a function to call with the
            bytes that were worked through since the last call.
        num_workers: processes; all cores when `None`. One works in this process.
        report: called about twice a second with all bytes worked through so far.

    Raises:
        ChildProcessError: a worker was killed; what others finished is kept.
    """
    if num_workers == 1 or len(jobs) <= 1:
        meter = _Meter(report)
        results = [work(job, meter.add) for job in jobs]
        meter.flush()
        return results
    # Threads of the parent (JAX, TensorStore) make a fork unsafe.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=min(num_workers or os.cpu_count() or 1, len(jobs)),
        mp_context=context,
        initializer=_begin_worker,
        initargs=(counter,),
    ) as pool:
        futures = [pool.submit(_in_worker, work, job) for job in jobs]
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
                "A worker process was killed, perhaps for want of memory; start the "
                "same command again to go on, with a smaller --num-workers if need be."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


class _Meter:
    """Adds up bytes and passes them on a block at a time."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report, self._total, self._said = report, 0, 0

    def add(self, count: int) -> None:
        self._total += count
        if self._total - self._said >= _REPORT_EVERY_BYTES:
            self.flush()

    def flush(self) -> None:
        self._said = self._total
        self._report(self._total)


def _begin_worker(counter: Any) -> None:
    global _done_bytes
    _done_bytes = counter
    end_with_the_parent()


def _in_worker(work: Callable[[Job, Progress], Result], job: Job) -> Result:
    told = 0

    def report(total: int) -> None:
        nonlocal told
        with _done_bytes.get_lock():
            _done_bytes.value += total - told
        told = total

    meter = _Meter(report)
    result = work(job, meter.add)
    meter.flush()
    return result
