"""Records where a run's time goes, from its first moment on, across kills and restarts.

Goodput is the fraction of that time in which steps were trained that still count.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from bert_jax.data.json_file import read_json, write_json

FORMAT_VERSION = 1
CATEGORIES = (
    "train",
    "input_wait",
    "compile",
    "evaluate",
    "checkpoint",
    "start_up",
    "lost",
)
# Time in these categories becomes "lost" if a kill undoes the steps it was spent on.
_OF_STEPS = ("train", "input_wait")


class Goodput:
    """Divides the wall time since a run began among `CATEGORIES`, in seconds.

    At any time exactly one category counts, so they add up to the wall time. Time outside
    of every `during` counts as `train`: the devices work while this process waits.

    - `input_wait`: this process waited for a batch. Devices may still have been busy
      with the step before, so this is the most that input can have cost.
    - `compile`: the first step of each shape, including its one execution.
    - `start_up`: in each session, from the call of its command to its first step. What
      Python loads before the call counts as time between sessions.
    - `lost`: training and waiting for steps after the checkpoint that a later session
      continued from, and the time between sessions.

    The numbers are kept in goodput.json of the run directory, as of the last `save`. After
    a kill, the time since that `save` counts as `lost`.
    """

    def __init__(
        self,
        run: pathlib.Path | None,
        *,
        began: float,
        keep: int = 3,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads goodput.json, if there is one, and continues its numbers.

        A file that cannot be used is said and replaced: it is a statistic.

        Args:
            run: run directory that holds goodput.json. None keeps nothing; it is for
                hosts that write no files.
            began: time of `clock` when this session began. Until `go_on`, the session
                counts as starting up.
            keep: number of checkpoints that a later session may continue from.
            clock: gives seconds since a moment that all sessions share.
        """
        self._path = None if run is None else run / "goodput.json"
        self._keep, self._clock, self._ahead = keep, clock, 0.0
        before = _load(self._path)
        self.seconds = dict.fromkeys(CATEGORIES, 0.0)
        self._marks: dict[int, dict[str, float]] = {0: self._of_steps()}
        if before is not None:
            self.seconds.update(before["seconds"])
            self._marks = before["marks"] or self._marks
            # If this clock is behind the last session's, it continues from there.
            self._ahead = max(0.0, before["seen"] - began)
            began += self._ahead
            self.seconds["lost"] += began - before["seen"]
        self._category, self._since = "start_up", began

    @property
    def category(self) -> str:
        """The category that counts now."""
        return self._category

    def go_on(self, step: int) -> None:
        """Training continues from the state of `step`; later steps count as lost."""
        self._switch("train")
        # If no mark so old was kept, the oldest mark stands in for it.
        kept = max((n for n in self._marks if n <= step), default=min(self._marks))
        for name, seconds in self._marks[kept].items():
            self.seconds["lost"] += self.seconds[name] - seconds
            self.seconds[name] = seconds
        self._marks = {n: mark for n, mark in self._marks.items() if n <= step}
        self._marks[step] = self._of_steps()
        self.save()

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """Time inside this context counts as `category`."""
        assert category in CATEGORIES
        outer = self._category
        self._switch(category)
        try:
            yield
        finally:
            self._switch(outer)

    def mark(self, step: int) -> None:
        """Notes the numbers at `step`, of which a checkpoint is about to be written."""
        self._switch(self._category)
        self._marks[step] = self._of_steps()
        # One mark more than checkpoints: the newest checkpoint may never be finished.
        for old in sorted(self._marks)[: -(self._keep + 1)]:
            del self._marks[old]
        self.save()

    def share(self) -> float:
        """Goodput: the fraction of the wall time spent on steps that still count."""
        return self.summary()["share"]

    def summary(self) -> dict[str, float]:
        """Wall time, goodput, and seconds of each category, for results.json."""
        self._switch(self._category)
        wall = sum(self.seconds.values())
        return {
            "wall_secs": wall,
            "share": self.seconds["train"] / wall if wall else 0.0,
            **{f"{name}_secs": seconds for name, seconds in self.seconds.items()},
        }

    def save(self) -> None:
        """Writes goodput.json. A reader sees the old file or the whole new file."""
        self._switch(self._category)
        if self._path is None:
            return
        content = {
            "format_version": FORMAT_VERSION,
            "seen": self._since,
            "seconds": self.seconds,
            "marks": self._marks,
        }
        # A run directory that has vanished is the lock's to say.
        with contextlib.suppress(FileNotFoundError):
            write_json(self._path, content)

    def _switch(self, category: str) -> None:
        now = max(self._clock() + self._ahead, self._since)
        self.seconds[self._category] += now - self._since
        self._category, self._since = category, now

    def _of_steps(self) -> dict[str, float]:
        return {name: self.seconds[name] for name in _OF_STEPS}


def _load(path: pathlib.Path | None) -> dict[str, Any] | None:
    """What the last session wrote; `None`, which is said, if it cannot be used."""
    if path is None or not path.exists():
        return None
    way_out = "The run goes on; where its time went counts from now on."
    try:
        kept = read_json(path, way_out, version=FORMAT_VERSION, other_version=way_out)
        return {
            "seen": float(kept["seen"]),
            "seconds": {name: float(kept["seconds"][name]) for name in CATEGORIES},
            "marks": {
                int(step): {name: float(mark[name]) for name in _OF_STEPS}
                for step, mark in kept["marks"].items()
            },
        }
    except (LookupError, TypeError, AttributeError) as error:
        print(f"note: {path} is damaged ({error!r}). {way_out}", flush=True)
    except (ValueError, OSError) as error:
        print(f"note: {error}", flush=True)
    return None
