"""Jobs in worker processes: order, progress, and what happens when one dies."""

import os

import pytest

from bert_jax.data.prepared.pool import run_jobs

SIZE = 1 << 20


def double(job: int, progress) -> int:
    for _ in range(4):
        progress(SIZE // 4)
    return 2 * job


def refuse(job: int, progress) -> int:
    if job == 3:
        raise ValueError(f"job {job} is wrong")
    return job


def die(job: int, progress) -> int:
    if job == 1:
        os._exit(9)
    return job


@pytest.mark.parametrize("num_workers", [1, 2, None])
def test_results_stand_in_the_order_of_the_jobs(num_workers):
    told = []
    jobs = list(range(7))
    results = run_jobs(double, jobs, num_workers=num_workers, report=told.append)
    assert results == [2 * job for job in jobs]
    assert told == sorted(told)
    assert told[-1] == 7 * SIZE


def test_no_jobs_are_no_trouble():
    assert run_jobs(double, [], num_workers=2, report=lambda done: None) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_job_comes_through(num_workers):
    with pytest.raises(ValueError, match="job 3 is wrong"):
        run_jobs(
            refuse, list(range(5)), num_workers=num_workers, report=lambda done: None
        )


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(ChildProcessError, match=r"was killed.*start the same command"):
        run_jobs(die, list(range(5)), num_workers=2, report=lambda done: None)
