"""One process at a time trains a run of an object store.

The lock is a small object that only one process can create. Its holder writes it anew
every few seconds; a process that finds it waits to see whether that happens.
"""

import json
import threading
import time

from bert_jax.data.object_store import StoreFolder
from bert_jax.train.runs.run_lock import (
    has_ended,
    held_by,
    holder_in,
    say_waiting,
    this_process,
)

LOCK = ".lock"
_BEAT_SECS, _LOOK_SECS = 15.0, 3.0
# After so long without a sign, the holder is taken for dead.
_STALE_SECS = 75.0


class StoreLock:
    """Holds the lock of a folder in a store while its block runs."""

    def __init__(self, store: StoreFolder) -> None:
        self._store, self._me = store, this_process()
        self.id: str = self._me["id"]
        """Names this session."""
        self.lost: str | None = None
        """Who took the lock away, in a sentence."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "StoreLock":
        """Takes the lock.

        Raises:
            ValueError: another process holds it; its host and its number are named.
        """
        while True:
            try:
                self._store.write(LOCK, self._content(0), is_new=True)
                break
            except FileExistsError:
                self._remove_if_stale()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.lost is None and holder_in(self._store.read(LOCK) or b"") == self._me:
            self._store.delete([LOCK])

    def check(self) -> None:
        """Raises OSError if another process took the lock."""
        if self.lost is not None:
            raise OSError(self.lost)

    def _remove_if_stale(self) -> None:
        seen = self._store.read(LOCK)
        holder = holder_in(seen or b"")
        # Containers number their processes from 1, so the number may be our own.
        me = self._me["host"], self._me["pid"]
        is_there = holder is not None and not has_ended(holder)
        if holder and is_there and (holder["host"], holder["pid"]) != me:
            say_waiting(self._store, holder, _STALE_SECS)
            deadline = time.monotonic() + _STALE_SECS
            while time.monotonic() < deadline and self._store.read(LOCK) == seen:
                time.sleep(_LOOK_SECS)
        now = self._store.read(LOCK)
        if now == seen:
            self._store.delete([LOCK])
        elif now is not None:
            raise held_by(self._store, holder_in(now))

    def _content(self, beat: int) -> bytes:
        return json.dumps({**self._me, "beat": beat}).encode()

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(_BEAT_SECS):
            beat += 1
            try:
                holder = holder_in(self._store.read(LOCK) or b"")
                if holder == self._me:
                    self._store.write(LOCK, self._content(beat))
                    continue
            except OSError:
                continue  # a store that does not answer is no proof
            who = (
                "somebody who deleted its lock"
                if holder is None
                else f"process {holder['pid']} on {holder['host']}"
            )
            self.lost = f"{self._store} was taken over by {who}. Training stops here."
            return
