"""Runs in an object store: fetched to be read, trained in a local folder and copied there.

A run in a store has the files of a run directory. While it is trained, a folder in the
user's cache is the run directory, and a thread copies what is new. The store is the
truth: where another machine has trained the run since, the folder is made anew from it.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Literal

from bert_jax.config import LoopConfig
from bert_jax.config.address import address_of
from bert_jax.data.object_store import StoreFolder, alone_in, local_copy_of
from bert_jax.runtime.agreement import on_first_host
from bert_jax.runtime.start import protect
from bert_jax.train.runs.checkpoint_files import MANIFEST_FILE
from bert_jax.train.runs.checkpoint_in_store import (
    BEST,
    CHECKPOINTS,
    PLACES,
    delete_checkpoint,
    get_checkpoint,
    put_checkpoint,
    steps_in_store,
)
from bert_jax.train.runs.checkpoint_mirror import steps_in
from bert_jax.train.runs.checkpoint_recovery import DAMAGED, too_old
from bert_jax.train.runs.run import refuse_lost
from bert_jax.train.runs.store_lock import LOCK, StoreLock
from bert_jax.train.stop_request import InterruptedRunError

_SESSION = "session"  # names the last session that trained the run
_POLL_SECS, _LONGEST_PAUSE_SECS = 1.0, 60.0
_SMALL_FILES_SECS = 60.0


def fetch_run(
    run: str | os.PathLike[str],
    weights: Literal["none", "one", "newest", "all"] = "one",
    step: int | None = None,
) -> pathlib.Path:
    """The local folder of a run to read; a run of a store is copied into the user's cache.

    A checkpoint that is there with the same manifest is not fetched again.

    Args:
        run: its directory, or its address in a store.
        weights: which checkpoints are fetched: none, the one of `step`, the same but
            never the best state, which has no moments to go on with, or all.
        step: step of the checkpoint. Default: the best one that the run keeps, else the
            newest one.

    Raises:
        FileNotFoundError: there is nothing at the address, or no whole checkpoint of that
            step.
        ValueError: a file of the checkpoint is not what was saved; it is named.
        OSError: the store does not answer, or refuses.
    """
    address = address_of(run)
    if address is None:
        return pathlib.Path(run)
    store = StoreFolder(address)
    sizes = store.sizes()
    if not sizes:
        raise FileNotFoundError(f"{store} holds nothing; expected a run of `bert-jax`.")
    steps = {place: steps_in_store(sizes, place) for place in PLACES}
    there = [(place, n) for place, found in steps.items() for n in found]
    if weights == "newest":
        there = [(place, n) for place, n in there if place != BEST]
    wanted = [] if weights == "none" else there
    if weights in ("one", "newest"):
        if step is not None:
            wanted = [(place, n) for place, n in there if n == step]
        if there and not wanted:
            raise FileNotFoundError(
                f"{store} has no whole checkpoint of step {step}; there are "
                f"{sorted({n for _, n in there})}."
            )
        # The best one goes first, as for `open_weights`.
        wanted = sorted(wanted, key=lambda x: (x[0] != BEST, -x[1]))[:1]
    end = "@all" if weights == "all" else "".join(f"@{p}-{n}" for p, n in wanted)
    local = local_copy_of(address, "runs", end)
    with alone_in(local):
        for place in PLACES:
            for old in steps_in(local / place):
                if (place, old) not in wanted:
                    shutil.rmtree(local / place / str(old))
        for place, n in wanted:
            get_checkpoint(StoreFolder(f"{store}/{place}/{n}"), local / place / str(n))
        store.get_small(local, _small_files(sizes))
    return local


@contextlib.contextmanager
def trained_in_store(
    output: str | os.PathLike[str], cfg: LoopConfig
) -> Iterator[pathlib.Path]:
    """Gives the local folder to train a run in, and copies it to its address, if it has one.

    In a job, process 0 does this; the folder must be on storage that all hosts share.

    Args:
        output: directory of the run, or its address in a store.
        cfg: which checkpoints are kept.

    Raises, on all hosts:
        ValueError: another process trains the run, or the address holds something else.
        OSError: the store does not answer or refuses, or the run could not be copied; it
            is whole in the local folder then.
    """
    address = address_of(output)
    if address is None:
        yield pathlib.Path(output)
        return
    run = local_copy_of(address, "training")
    copies: list[_Copies] = []
    with contextlib.ExitStack() as held:

        def begin() -> None:
            store = StoreFolder(address)
            lock = held.enter_context(StoreLock(store))
            _take_over(store, run, lock.id)
            copies.append(held.enter_context(_Copies(store, run, cfg, lock)))

        def finish() -> None:
            protect(True)  # a signal that has stopped the run must not end this
            try:
                for each in copies:
                    each.finish()
            finally:
                protect(False)

        on_first_host(f"look into {address}", begin)
        stopped = None
        try:
            yield run
        except InterruptedRunError as error:
            stopped = error
        on_first_host(f"last copies to {address}", finish)
        print(f"{address} holds the run", flush=True)
        if stopped is not None:
            raise stopped


def _take_over(store: StoreFolder, run: pathlib.Path, session: str) -> None:
    """Makes the local folder what the store holds, unless it is what this machine left."""
    sizes = store.sizes()
    small = _small_files(sizes, "tensorboard/")
    is_run = "run.json" in sizes
    if not is_run:
        refuse_lost(store, steps_in_store(sizes, CHECKPOINTS))
    if not is_run and sizes.keys() - small.keys() - {LOCK, _SESSION}:
        raise ValueError(
            f"{store} is not empty and holds no run; choose another --output."
        )
    note, before = run / f".{_SESSION}", store.read(_SESSION)
    if not note.is_file() or note.read_bytes() != before:
        shutil.rmtree(run, ignore_errors=True)
        if is_run:
            print(f"note: fetching the run from {store} to {run}", flush=True)
            for place in PLACES:
                _get_newest(store, run, place, steps_in_store(sizes, place))
            store.get_small(run, small)
    store.write(_SESSION, session.encode())
    if run.is_dir():
        note.write_text(session)


def _get_newest(
    store: StoreFolder, run: pathlib.Path, place: str, steps: list[int]
) -> None:
    """Fetches the newest whole checkpoint of a place; damaged ones are passed over."""
    for step in steps:
        try:
            get_checkpoint(
                StoreFolder(f"{store}/{place}/{step}"), run / place / str(step)
            )
            return
        except ValueError as damage:
            if step == steps[-1]:
                raise ValueError(
                    f"{store} has no whole checkpoint: {damage}."
                ) from None
            print(f"note: step {step:,} is passed over: {damage}.", flush=True)


def _small_files(sizes: dict[str, int], *folders: str) -> dict[str, int]:
    """Files of the run itself, of its tokenizer and of further folders."""
    inside = ("tokenizer/", *folders)
    return {
        name: size
        for name, size in sizes.items()
        if ("/" not in name or name.startswith(inside)) and name not in (LOCK, _SESSION)
    }


class _Copies:
    """Copies a local run directory into its store, in a thread, until `finish`."""

    def __init__(
        self, store: StoreFolder, run: pathlib.Path, cfg: LoopConfig, lock: StoreLock
    ) -> None:
        self._store, self._run, self._lock = store, run, lock
        self._links = run.with_name(f"{run.name}@copied")
        self._keep = {
            CHECKPOINTS: (cfg.keep_checkpoints, cfg.keep_every_steps),
            BEST: (1, None),
        }
        # What the store holds: manifests of checkpoints; size and time of small files.
        self._manifests: dict[tuple[str, int], bytes | None] = {}
        self._small: dict[str, tuple[int, int]] = {}
        self._small_copied = 0.0
        self._ended = threading.Event()
        self._is_finished = False
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "_Copies":
        sizes = self._store.sizes()
        for place in PLACES:
            folders = {x.split("/")[1] for x in sizes if x.startswith(f"{place}/")}
            whole = steps_in_store(sizes, place)
            for n in whole:
                name = f"{place}/{n}/{MANIFEST_FILE}"
                self._manifests[place, n] = self._store.read(name)
            # What a kill has left half-written or half-deleted.
            for name in folders - {str(n) for n in whole}:
                delete_checkpoint(StoreFolder(f"{self._store}/{place}/{name}"))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """After an error, what could not be copied is said; it stays in the local folder."""
        self._stop()
        if kind is not None and issubclass(kind, Exception) and not self._is_finished:
            try:
                self.finish()
            except OSError as error:
                print(f"note: {error}", flush=True)
        shutil.rmtree(self._links, ignore_errors=True)

    def finish(self) -> None:
        """Returns when all of the run is in the store.

        Raises:
            OSError: it could not be copied, or another process has taken the run over.
        """
        self._stop()
        self._is_finished = True
        try:
            self._copy(is_last=True)
        except OSError as error:
            raise OSError(
                f"{self._store} does not hold all of the run. {error} All of it is in "
                f"{self._run}; the same command on this machine goes on from there."
            ) from error

    def _stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        pause, said = _POLL_SECS, ""
        while not self._ended.wait(pause):
            try:
                self._copy()
                pause = _POLL_SECS
            except OSError as error:
                if self._lock.lost:
                    # As a stop of the user: the run is saved, and the command ends.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                if str(error) != said:
                    said = str(error)
                    print(f"warning: {error} The run goes on.", flush=True)
                pause = min(2 * pause, _LONGEST_PAUSE_SECS)

    def _copy(self, *, is_last: bool = False) -> None:
        """Copies what is new; a checkpoint after all that a run needs to go on from it."""
        self._lock.check()
        if not (self._run / "run.json").exists():
            return
        (self._run / f".{_SESSION}").write_text(self._lock.id)
        # First the checkpoints to go on from, so that what comes after is no older.
        new = {place: list(self._new(place)) for place in PLACES}
        self._put(BEST, new[BEST])
        is_due = time.monotonic() - self._small_copied > _SMALL_FILES_SECS
        if is_due or is_last or new[CHECKPOINTS]:
            self._put_small_files()
        self._put(CHECKPOINTS, new[CHECKPOINTS])

    def _new(self, place: str) -> Iterator[int]:
        """Steps that the store has not. Their files are linked, so that none vanishes."""
        for step in sorted(steps_in(self._run / place)):
            source, links = (x / place / str(step) for x in (self._run, self._links))
            with contextlib.suppress(FileNotFoundError, shutil.Error):
                manifest = (source / MANIFEST_FILE).read_bytes()
                if self._manifests.get((place, step)) != manifest:
                    shutil.rmtree(links, ignore_errors=True)
                    shutil.copytree(source, links, copy_function=os.link)
                    yield step

    def _put(self, place: str, new: list[int]) -> None:
        for step in new:
            links = self._links / place / str(step)
            self._manifests[place, step] = None
            put_checkpoint(links, self._folder(place, step))
            self._manifests[place, step] = (links / MANIFEST_FILE).read_bytes()
            shutil.rmtree(links)
            older = [n for p, n in self._manifests if p == place and n <= step]
            for old in too_old(sorted(older, reverse=True), *self._keep[place]):
                delete_checkpoint(self._folder(place, old))
                del self._manifests[place, old]

    def _folder(self, place: str, step: int) -> StoreFolder:
        return StoreFolder(f"{self._store}/{place}/{step}")

    def _put_small_files(self) -> None:
        for path in sorted(self._run.rglob("*")):
            name = path.relative_to(self._run).as_posix()
            is_other = name.split("/")[0] in (*PLACES, DAMAGED)
            if is_other or name.startswith(".") or ".partial-" in name:
                continue
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                stat = path.stat()
                facts = stat.st_size, stat.st_mtime_ns
                if self._small.get(name) != facts:
                    # Read at once, since the run may write on.
                    self._store.write(name, path.read_bytes())
                    self._small[name] = facts
        self._small_copied = time.monotonic()
