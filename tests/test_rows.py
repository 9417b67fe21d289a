"""Rows by number: what is planned, when, by whom, and where it is kept."""

import copy
import dataclasses
import os
import pathlib
import pickle

import numpy as np
import pytest
from store_rows import assert_same, rows_of_store

from bert_jax.config import DataConfig
from bert_jax.data.batches import rows as rows_module
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.store import TokenStore

CFG = DataConfig(sequence_length=32)


@pytest.fixture(scope="module")
def store(make_store):
    rng = np.random.default_rng(1)
    return make_store([rng.integers(1, 15, rng.integers(1, 9)) for _ in range(40)])


@pytest.fixture
def planned(monkeypatch):
    """Numbers of the epochs that were planned, not read from disk."""
    numbers = []
    plan = rows_module.plan_epoch

    def counted(*args, number, **kwargs):
        numbers.append(number)
        return plan(*args, number=number, **kwargs)

    monkeypatch.setattr(rows_module, "plan_epoch", counted)
    return numbers


def test_old_epochs_are_forgotten_and_planned_again(store, special, planned):
    rows = rows_of_store(store, CFG, special, seed=3)
    before = rows.batch(0, 5)
    rows.batch(sum(rows.size(n).num_rows for n in range(5)), 1)
    assert planned == [0, 1, 2, 3, 4, 5]
    assert len(rows._epochs) <= 2
    assert_same(rows.batch(0, 5), before)
    assert planned == [0, 1, 2, 3, 4, 5, 0]


def test_a_restart_plans_nothing_that_is_known(store, special, planned, tmp_path):
    first = rows_of_store(store, CFG, special, seed=3, plan_dir=tmp_path)
    start = sum(first.size(n).num_rows for n in range(4))
    expected = first.batch(start + 3, 5)
    again = rows_of_store(store, CFG, special, seed=3, plan_dir=tmp_path)
    assert_same(again.batch(start + 3, 5), expected)
    assert again.size(0) == first.size(0)  # its arrays are gone
    assert planned == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_length": 40},
        {"pairs": "sentence_order"},
        {"short_pair_rate": 0.2},
        {"layout": "padded"},
        {"layout": "buckets"},
        {"max_pairs_per_row": 3},
    ],
    ids=str,
)
def test_what_decides_a_plan_makes_another(store, special, planned, tmp_path, change):
    cfg = dataclasses.replace(CFG, **change)
    for one in (CFG, cfg, cfg):
        rows = rows_of_store(
            store, one, special, seed=3, batch_size=8, plan_dir=tmp_path
        )
        rows.epoch(0)
    assert planned == [0, 0]


def test_buckets_are_planned_for_lengths_and_batch(store, special, planned, tmp_path):
    cfg = DataConfig(sequence_length=32, layout="buckets")
    halves = dataclasses.replace(cfg, bucket_lengths=(16, 32))
    for one, batch_size in ((cfg, 8), (cfg, 4), (halves, 4), (halves, 4)):
        rows = rows_of_store(
            store, one, special, seed=3, batch_size=batch_size, plan_dir=tmp_path
        )
        rows.epoch(0)
    assert planned == [0, 0, 0]


def test_seed_and_corpus_decide_too(store, special, planned, tmp_path, make_store):
    other = make_store([[3, 4, 5]] * 9)
    for one, seed in ((store, 3), (store, 4), (other, 4), (store, 3), (other, 4)):
        rows_of_store(one, CFG, special, seed=seed, plan_dir=tmp_path).epoch(0)
    assert planned == [0, 0, 0]


@pytest.mark.parametrize("change", [{"num_threads": 5}, {"num_workers": 2}], ids=str)
def test_what_decides_nothing_shares_plans(store, special, planned, tmp_path, change):
    for cfg in (CFG, dataclasses.replace(CFG, **change)):
        rows_of_store(store, cfg, special, seed=3, plan_dir=tmp_path).epoch(0)
    assert planned == [0]


def test_sizes_are_those_of_the_rows(store, special):
    for layout in ("packed", "padded", "buckets"):
        cfg = dataclasses.replace(CFG, layout=layout)
        rows = rows_of_store(store, cfg, special, seed=3, batch_size=4)
        size, steps = rows.size(0), rows.steps_per_epoch(4)
        whole = range(int(steps)) if layout == "buckets" else range(int(steps) + 1)
        batches = [rows.batch_of_step(step, batch_size=4) for step in whole]
        if layout == "buckets":
            assert size.num_batches == steps
            assert sum(b.input_ids.size for b in batches) == size.num_places
            real = sum((b.sequence_ids > 0).sum() for b in batches)
        else:
            assert size.num_batches == 0
            assert size.num_rows == 4 * steps
            assert size.num_places == 32 * size.num_rows
            real = (rows.batch(0, size.num_rows).sequence_ids > 0).sum()
        assert real == size.num_tokens
        assert size.num_pairs == len(rows.epoch(0).pairs)


def test_the_next_epoch_is_planned_once_half_is_over(store, special, planned):
    rows = rows_of_store(store, CFG, special, seed=3)
    count = rows.size(0).num_rows
    for unit, end in ((0, 10**6), (count // 2 - 1, 10**6), (count - 1, count)):
        rows.plan_ahead(unit, end)
    assert rows._planned_ahead == 0
    for _ in range(2):
        rows.plan_ahead(count // 2, count + 1)
        assert rows._planned_ahead == 1
    rows.epoch(1)  # waits for it
    assert planned == [0, 1]


def test_a_failure_ahead_of_time_is_told_when_it_matters(store, special, tmp_path):
    rows = rows_of_store(store, CFG, special, seed=3, plan_dir=tmp_path / "plans")
    count = rows.size(0).num_rows
    folder = next((tmp_path / "plans").iterdir())
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    rows.plan_ahead(count - 1, count + 9)
    assert rows.batch(0, count).input_ids.size
    with pytest.raises(ValueError, match="cannot be written"):
        rows.batch(count, 1)


def test_a_pickled_store_is_its_paths(store, tmp_path):
    for name, array in zip(TokenStore._fields, store, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = TokenStore(
        *(np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in TokenStore._fields)
    )
    for opened in (pickle.loads(pickle.dumps(mapped)), copy.deepcopy(mapped)):
        assert all(isinstance(array, np.memmap) for array in opened)
        for one, other in zip(opened, store, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(pickle.dumps(mapped)) < 500 + 3 * len(str(tmp_path))
    with pytest.raises(ValueError, match=r"TokenStore\.tokens is held in memory"):
        pickle.dumps(store)


@pytest.fixture(scope="module")
def dataset(dataset):
    return open_dataset(dataset)


def test_plans_lie_in_the_dataset_or_where_one_says(dataset, planned, tmp_path):
    elsewhere = dataclasses.replace(CFG, plan_dir=tmp_path)
    for split in ("train", "validation"):
        for _ in range(2):
            inside = open_rows(dataset, split, CFG, seed=3)
            assert_same(
                inside.batch(0, 4),
                open_rows(dataset, split, elsewhere, seed=3).batch(0, 4),
            )
    assert planned == [0, 0, 0, 0]
    plans = dataset.directory / "index" / "plans"
    for folder in (plans, tmp_path):
        assert len(list(folder.iterdir())) == 2
    assert pickle.loads(pickle.dumps(inside)).batch(0, 4).input_ids.shape == (4, 32)


def test_a_dataset_that_cannot_be_written_names_the_way_out(dataset, monkeypatch):
    dataset.load_split("train")

    def refused(*args, **kwargs):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(pathlib.Path, "mkdir", refused)
    rows = open_rows(dataset, "train", CFG, seed=77)
    with pytest.raises(ValueError, match=r"index/plans .*--data\.plan-dir DIR"):
        rows.epoch(0)
