"""Where a run's time goes, from its first moment, with every kill and restart in it.

Goodput is the share of that time in which steps were trained that still count.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from bert_jax.train.run import write_text

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
# What a kill takes away, when it comes after the checkpoint that training goes on from.
_OF_STEPS = ("train", "input_wait")


class Goodput:
    """Divides the wall time since a run began among `CATEGORIES`, in seconds.

    At any time one category runs, so they add up to the wall time. What is in no
    `during` is `train`: devices work while this process waits for them.

    - `input_wait`: this process waited for a batch. Devices may still have been busy
      with the step before, so it is the most that input can have cost.
    - `compile`: the first step of each shape, its one execution included.
    - `start_up`: of each session, from its first moment (when its command is called; what
      Python loads before that is between sessions) to its first step.
    - `lost`: steps trained (and waited for) after the checkpoint that a later session
      went on from, and the time between sessions.

    The numbers are kept in goodput.json of the run directory, as fresh as the last
    `save`; a kill loses what came later to `lost`, since the next session sees only
    when it was written.
    """

    def __init__(
        self,
        run: pathlib.Path | None,
        *,
        began: float,
        keep: int = 3,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes up goodput.json, if there is one.

        Args:
            run: where to keep it; None keeps nothing (hosts that write nothing).
            began: when this session did, by `clock`; it is starting up until `go_on`.
            keep: checkpoints that a later session may go on from.
            clock: seconds since a moment that all sessions share.

        Raises:
            ValueError: goodput.json is of another format.
        """
        self._path = None if run is None else run / "goodput.json"
        self._keep, self._clock, self._ahead = keep, clock, 0.0
        before = _load(self._path)
        self.seconds = dict.fromkeys(CATEGORIES, 0.0)
        self._marks: dict[int, dict[str, float]] = {0: self._of_steps()}
        if before is not None:
            self.seconds.update(before["seconds"])
            self._marks = {int(step): mark for step, mark in before["marks"].items()}
            # A clock that is behind the last session's goes on from there.
            self._ahead = max(0.0, before["seen"] - began)
            began += self._ahead
            self.seconds["lost"] += began - before["seen"]
        self._category, self._since = "start_up", began

    def go_on(self, step: int) -> None:
        """The first step comes, from the state of `step`: those beyond it were lost."""
        self._switch("train")
        # Without a mark of it (none was kept so long), from the first that there is.
        kept = max((n for n in self._marks if n <= step), default=min(self._marks))
        for name, seconds in self._marks[kept].items():
            self.seconds["lost"] += self.seconds[name] - seconds
            self.seconds[name] = seconds
        self._marks = {n: mark for n, mark in self._marks.items() if n <= step}
        self._marks[step] = self._of_steps()
        self.save()

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """What runs inside counts as `category`, and nowhere else."""
        assert category in CATEGORIES
        outer = self._category
        self._switch(category)
        try:
            yield
        finally:
            self._switch(outer)

    def move(self, category: str, seconds: float) -> None:
        """Of the running category, these seconds were spent on another."""
        self._switch(self._category)
        self.seconds[self._category] -= seconds
        self.seconds[category] += seconds

    def mark(self, step: int) -> None:
        """A checkpoint of `step` is about to be written."""
        self._switch(self._category)
        self._marks[step] = self._of_steps()
        # One more than is kept: the newest may never be finished.
        for old in sorted(self._marks)[: -(self._keep + 1)]:
            del self._marks[old]
        self.save()

    def wall_secs(self) -> float:
        """Seconds since the run began: the sum of all categories."""
        self._switch(self._category)
        return sum(self.seconds.values())

    def share(self) -> float:
        """Goodput: of the wall time, what was spent on steps that still count."""
        return self.summary()["share"]

    def summary(self) -> dict[str, float]:
        """For results.json: wall time, goodput, and seconds of each category."""
        wall = self.wall_secs()
        return {
            "wall_secs": wall,
            "share": self.seconds["train"] / wall if wall else 0.0,
            **{f"{name}_secs": seconds for name, seconds in self.seconds.items()},
        }

    def save(self) -> None:
        """Writes goodput.json; a reader sees the old file or the whole new one."""
        self._switch(self._category)
        if self._path is None:
            return
        text = json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "seen": self._since,
                "seconds": self.seconds,
                "marks": self._marks,
            }
        )
        write_text(self._path, text + "\n")

    def _switch(self, category: str) -> None:
        now = max(self._clock() + self._ahead, self._since)
        self.seconds[self._category] += now - self._since
        self._category, self._since = category, now

    def _of_steps(self) -> dict[str, float]:
        return {name: self.seconds[name] for name in _OF_STEPS}


def _load(path: pathlib.Path | None) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    if kept.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {kept.get('format_version')}; this version of bert_jax "
            f"reads {FORMAT_VERSION}. Go on with the version that wrote it, or remove "
            "the file: the run's time then counts from now."
        )
    return kept
