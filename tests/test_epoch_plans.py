"""EpochPlans on disk: whole or not there, one maker at a time, the last two kept."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import threading
import time

import numpy as np
import pytest

from bert_jax.config import DataConfig
from bert_jax.data.batches.epoch_plans import EpochPlans
from bert_jax.data.batches.epochs import Epoch, EpochSize, plan_epoch, size_of
from bert_jax.data.batches.pairs import Pairs

CFG = DataConfig(sequence_length=32)
KEY = {"store": "some", "seed": 1, "lengths": (16, 32)}
ARRAYS = sorted([f.name for f in dataclasses.fields(Pairs)] + list(Epoch._fields[1:]))


@pytest.fixture(scope="module")
def make(make_store):
    """make(number): an epoch and its size; make.calls counts."""
    store = make_store([[5, 9, 3, 14, 2]] * 20)

    class Make:
        calls = 0

        def __call__(self, number: int = 0) -> tuple[Epoch, EpochSize]:
            Make.calls += 1
            epoch = plan_epoch(store, CFG, seed=1, number=number)
            return epoch, size_of(epoch, CFG)

    return Make()


def arrays_of(epoch: Epoch) -> list[np.ndarray]:
    return [*vars(epoch.pairs).values(), *epoch[1:]]


def assert_same(one: Epoch, other: Epoch) -> None:
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def never():
    raise AssertionError("it is on disk already")


def test_a_plan_is_written_once_and_mapped(tmp_path, make):
    plans = EpochPlans(tmp_path, KEY)
    assert plans.size(0) is None
    opened = plans.open(0, make)
    assert_same(opened, make()[0])
    assert all(isinstance(array, np.memmap) for array in arrays_of(opened))
    assert not any(array.flags.writeable for array in arrays_of(opened))
    assert_same(EpochPlans(tmp_path, KEY).open(0, never), opened)
    assert plans.size(0) == make()[1]
    names = sorted(p.name for p in (plans.folder / "epoch-00000").iterdir())
    assert names == [f"{name}.npy" for name in ARRAYS]
    left = sorted(p.name for p in plans.folder.iterdir())
    assert left == [".lock", "epoch-00000", "epoch-00000.json"]


@pytest.mark.parametrize("change", [{"seed": 2}, {"store": "other"}, {"more": [1]}])
def test_other_keys_have_other_plans(tmp_path, make, change):
    EpochPlans(tmp_path, KEY).open(0, make)
    before = make.calls
    EpochPlans(tmp_path, KEY | change).open(0, make)
    assert make.calls == before + 1


def test_other_rules_have_other_plans(tmp_path, make, monkeypatch):
    EpochPlans(tmp_path, KEY).open(0, make)
    for target, value in (("PLAN_VERSION", 0), ("np.__version__", "1.26.4")):
        with monkeypatch.context() as patch:
            patch.setattr(f"bert_jax.data.batches.epoch_plans.{target}", value)
            other = EpochPlans(tmp_path, KEY)
        assert other.size(0) is None


def test_the_last_two_stay_and_all_sizes(tmp_path, make):
    plans = EpochPlans(tmp_path, KEY)
    for number in range(4):
        first = plans.open(number, lambda n=number: make(n))
        if number == 2:
            plans.open(1, never)  # used after epoch 2 was written
            kept = first
    assert sorted(p.name for p in plans.folder.glob("epoch-?????")) == [
        "epoch-00001",
        "epoch-00003",
    ]
    assert_same(kept, make(2)[0])  # it is still mapped here
    assert [plans.size(n) for n in range(4)] == [make(n)[1] for n in range(4)]
    assert_same(plans.open(0, lambda: make(0)), make(0)[0])


def flip_a_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, pathlib.Path.unlink])
@pytest.mark.parametrize("name", ["a_start", "row_starts"])
def test_damaged_arrays_are_planned_again(tmp_path, make, damage, name):
    plans = EpochPlans(tmp_path, KEY)
    plans.open(0, make)
    damage(plans.folder / "epoch-00000" / f"{name}.npy")
    before = make.calls
    with pytest.warns(UserWarning, match=rf"{name}\.npy .*epoch 0 is planned again"):
        opened = plans.open(0, make)
    assert make.calls == before + 1
    assert_same(opened, make()[0])
    assert_same(plans.open(0, never), opened)


def edited(edit):
    def damage(path: pathlib.Path) -> None:
        whole = json.loads(path.read_text())
        edit(whole)
        path.write_text(json.dumps(whole))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        edited(lambda whole: whole["plan"]["size"].update(num_rows=7)),
        edited(lambda whole: whole["plan"]["key"].update(seed=7)),
        edited(lambda whole: whole.pop("sha256")),
    ],
)
def test_damaged_descriptions_are_not_believed(tmp_path, make, damage):
    plans = EpochPlans(tmp_path, KEY)
    plans.open(0, make)
    damage(plans.folder / "epoch-00000.json")
    assert plans.size(0) is None
    with pytest.warns(
        UserWarning, match=r"epoch-00000\.json does not hold what was written"
    ):
        assert_same(plans.open(0, make), make()[0])
    assert plans.size(0) == make()[1]


@pytest.mark.parametrize("last", ["arrays", "description"])
def test_a_kill_leaves_nothing_that_counts(tmp_path, make, monkeypatch, last):
    plans = EpochPlans(tmp_path, KEY)
    replace = os.replace

    def killed(source, target):
        if pathlib.Path(source).name == last:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            plans.open(0, make)
    assert plans.size(0) is None
    before = make.calls
    assert_same(plans.open(0, make), make()[0])
    assert make.calls > before


def test_leftovers_of_killed_processes_are_removed(tmp_path, make):
    plans = EpochPlans(tmp_path, KEY)
    old, new = plans.folder / "partial-old", plans.folder / "partial-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 10_000,) * 2)
    plans.open(0, make)
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, make):
    (tmp_path / "file").write_text("")
    message = (
        rf"cannot be written to {re.escape(str(tmp_path))}/file .*--data\.plan-dir"
    )
    with pytest.raises(ValueError, match=message):
        EpochPlans(tmp_path / "file", KEY).open(0, make)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, make, monkeypatch):
    plans = EpochPlans(tmp_path, KEY)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(ValueError, match=r"No space left .*--data\.plan-dir"):
            plans.open(0, make)
    assert [p.name for p in plans.folder.iterdir()] == [".lock"]
    assert_same(plans.open(0, make), make()[0])


def test_plans_can_be_read_where_nothing_can_be_written(tmp_path, make, monkeypatch):
    opened = EpochPlans(tmp_path, KEY).open(0, make)

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(pathlib.Path, "mkdir", refused)
    assert_same(EpochPlans(tmp_path, KEY).open(0, never), opened)


def _open_in_process(folder, seed, calls):
    from bert_jax.data.prepared.store import TokenStore

    bounds = 4 * np.arange(81)
    store = TokenStore(np.zeros(320, np.uint16), bounds, 4 * np.arange(21))

    def make():
        with calls.get_lock():
            calls.value += 1
        time.sleep(0.2)
        epoch = plan_epoch(store, CFG, seed=seed, number=0)
        return epoch, size_of(epoch, CFG)

    EpochPlans(folder, KEY).open(0, make)


def test_threads_and_processes_make_a_plan_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    calls = context.Value("i", 0)
    arguments = (tmp_path, 1, calls)
    workers = [
        context.Process(target=_open_in_process, args=arguments),
        threading.Thread(target=_open_in_process, args=arguments),
        threading.Thread(target=_open_in_process, args=arguments),
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert calls.value == 1
