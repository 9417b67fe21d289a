"""A function in worker processes: order, progress, and what happens when one dies."""

import os

import pytest

from bert_jax.data.prepared.pool import map_in_workers

SIZE = 1 << 20


def double(item: int, progress) -> int:
    for _ in range(4):
        progress(SIZE // 4)
    return 2 * item


def refuse(item: int, progress) -> int:
    if item == 3:
        raise ValueError(f"item {item} is wrong")
    return item


def die(item: int, progress) -> int:
    if item == 1:
        os._exit(9)
    return item


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_stand_in_the_order_of_the_items(num_workers):
    told: list[int] = []
    items = list(range(7))
    results = map_in_workers(double, items, num_workers=num_workers, report=told.append)
    assert results == [2 * item for item in items]
    assert told == sorted(told)
    assert told[-1] == 7 * SIZE


def test_no_items_are_no_trouble():
    assert map_in_workers(double, [], num_workers=2, report=lambda done: None) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_a_worker_comes_through(num_workers):
    with pytest.raises(ValueError, match="item 3 is wrong"):
        map_in_workers(
            refuse, list(range(5)), num_workers=num_workers, report=lambda done: None
        )


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(ChildProcessError, match=r"was killed.*Start the same command"):
        map_in_workers(die, list(range(5)), num_workers=2, report=lambda done: None)
