"""Worker processes: the same batches, no copy of the corpus, and a clean end."""

import gc
import itertools
import multiprocessing
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from grain.multiprocessing import SharedMemoryArray
from processes import is_running
from store_rows import rows_of_store

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import DataConfig
from bert_jax.data.batches.loader import prefetched, train_batches
from bert_jax.data.batches.rows import PretrainRows
from bert_jax.data.prepared.store import TokenStore

BATCH = 4
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


def mapped_store(folder: pathlib.Path) -> TokenStore:
    """A store of 60 documents, memory-mapped as that of a prepared dataset is."""
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, 9, 60)
        lengths = rng.integers(1, 15, sizes.sum())
        starts = [np.concatenate([[0], np.cumsum(x)]) for x in (lengths, sizes)]
        tokens = rng.integers(5, 60, lengths.sum()).astype(np.uint16)
        arrays = zip(TokenStore._fields, (tokens, *starts), strict=True)
        for name, array in arrays:
            np.save(folder / f"{name}.npy", array)
    paths = (folder / f"{name}.npy" for name in TokenStore._fields)
    return TokenStore(*(np.load(path, mmap_mode="r") for path in paths))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    return mapped_store(tmp_path_factory.mktemp("corpus") / "store")


def make_rows(store: TokenStore, num_workers: int, layout="packed") -> PretrainRows:
    cfg = DataConfig(
        sequence_length=32, num_workers=num_workers, num_threads=1, layout=layout
    )
    return rows_of_store(store, cfg, SPECIAL, seed=3, batch_size=BATCH)


def first_steps(rows: PretrainRows, first: int, count: int) -> list[PretrainBatch]:
    batches = train_batches(
        rows, batch_size=BATCH, first_step=first, num_steps=first + count
    )
    return list(batches)


@pytest.mark.parametrize(
    ("num_workers", "layout"),
    [(2, "buckets"), pytest.param(3, "packed", marks=pytest.mark.slow)],
)
def test_workers_make_the_same_batches(store, num_workers, layout):
    threads = make_rows(store, 0, layout)
    # Not a multiple of the workers, over the end of the first epoch, from its middle.
    steps = int(threads.steps_per_epoch(BATCH))
    first, count = steps // 2, steps // 2 + 5
    expected = first_steps(threads, first, count)
    found = first_steps(make_rows(store, num_workers, layout), first, count)
    assert len(found) == len(expected) == count
    for one, other in zip(found, expected, strict=True):
        for name, a, b in zip(one._fields, one, other, strict=True):
            assert type(a) is np.ndarray
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, name)
    assert not multiprocessing.active_children()


class Probe(NamedTuple):
    seen: np.ndarray  # step, process, JAX backends, whether its rows are mapped


class Prober:
    def __init__(self, rows: PretrainRows) -> None:
        self.rows = rows

    def __call__(self, step: int) -> Probe:
        if step == 5:
            raise ValueError("step 5 is not to be had")
        bridge = sys.modules.get("jax._src.xla_bridge")
        backends = len(bridge._backends) if bridge else 0
        columns = (*self.rows.store, *vars(self.rows.epoch(0).pairs).values())
        mapped = all(isinstance(x, np.memmap) for x in columns)
        return Probe(np.array([step, os.getpid(), backends, mapped]))


@pytest.mark.slow
def test_workers_map_the_corpus_and_leave_devices_alone(store):
    rows = make_rows(store, 2)
    assert len(pickle.dumps(rows)) < 2_000
    probes = prefetched(Prober(rows), 0, 100, num_threads=1, num_workers=2)
    seen = np.array([probe.seen for probe in itertools.islice(probes, 5)])
    np.testing.assert_array_equal(seen[:, 0], range(5))
    assert len(set(seen[:, 1]) - {os.getpid()}) == 2
    assert not seen[:, 2].any(), "a worker has initialised JAX's devices"
    assert seen[:, 3].all()
    # What goes wrong in a worker goes wrong here, and no process is left.
    with pytest.raises(ValueError, match="step 5 is not to be had"):
        next(probes)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_no_signal_comes_between_a_batch_and_its_shared_memory(store, monkeypatch):
    # Handlers of signals run in the main thread, and what they raise in __del__ is lost.
    threads, delete = [], SharedMemoryArray.__del__

    def watched(array: SharedMemoryArray) -> None:
        threads.append(threading.current_thread())
        delete(array)

    monkeypatch.setattr(SharedMemoryArray, "__del__", watched)
    batches = train_batches(
        make_rows(store, 1), batch_size=BATCH, first_step=0, num_steps=6
    )
    assert sum(1 for _ in itertools.islice(batches, 5)) == 5
    assert threads
    assert threading.main_thread() not in threads
    batches.close()


@pytest.mark.slow
def test_an_iterator_that_nobody_holds_ends_its_workers(store):
    batches = train_batches(
        make_rows(store, 1), batch_size=BATCH, first_step=0, num_steps=10**6
    )
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    del batches
    gc.collect()
    assert not multiprocessing.active_children()


def test_a_corpus_in_memory_is_not_sent_to_workers(make_store):
    rows = make_rows(make_store([[3, 4]] * 9), 1)
    batches = train_batches(rows, batch_size=BATCH, first_step=0, num_steps=1)
    with pytest.raises(ValueError, match=r"TokenStore\.tokens is held in memory"):
        next(batches)


def _run_until_killed(folder: str) -> None:
    """A parent that survives SIGINT and SIGTERM, as a training loop does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: print("signal", flush=True))
    batches = train_batches(
        make_rows(mapped_store(pathlib.Path(folder)), 2),
        batch_size=BATCH,
        first_step=0,
        num_steps=10**6,
    )
    next(batches)
    print(*(x.pid for x in multiprocessing.active_children()), flush=True)
    for line in sys.stdin:
        taken = sum(1 for _ in itertools.islice(batches, int(line)))
        print("taken", taken, flush=True)


@pytest.mark.slow
def test_signals_go_to_the_parent_and_its_death_ends_all(tmp_path):
    mapped_store(tmp_path / "store")
    parent = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # Its resource tracker reports what a killed process leaves.
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        workers = [int(x) for x in parent.stdout.readline().split()]
        assert len(workers) == 2
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(parent.pid, number)
            assert parent.stdout.readline() == "signal\n"
        parent.stdin.write("40\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "taken 40\n"
        assert all(map(is_running, workers))
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30.0
        while any(map(is_running, workers)):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.05)


if __name__ == "__main__":
    _run_until_killed(sys.argv[1])
