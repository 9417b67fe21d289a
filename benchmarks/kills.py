"""Kills commands again and again until they are done: do they end like untouched ones?

    python -m benchmarks.kills --kills 1000

Small runs of `pretrain`, `finetune` and `prepare`, in one process and in two, are killed with
SIGKILL and started again, until each is finished. A kill comes at a moment that is drawn
evenly, shortly after a change in the run directory that was seen from outside, or exactly
before a file is made, renamed or deleted. The finished run is compared with an untouched
one, which an ordinary process made; the killed ones are forked (`forked.py`).
"""

import collections
import dataclasses
import functools
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import tyro

from benchmarks import forked
from benchmarks.killed_commands import PARTS, Part, Way, make_inputs
from benchmarks.machine import start_report
from benchmarks.results import Report, Table
from launch import local

AIMS = ("at a time", "after a change", "before a change")
# The share of resumes that change the devices, where a part has several ways.
_OTHER_WAY = 0.1
# When one process was killed, the others end by themselves in this time.
_GRACE_SECS = 60.0
_SLOWEST_SECS = 600.0
_DELAY_SECS = 0.03
_WRITE_SECS = 120.0
# Kills by share that a part has before the next one begins.
_HEAD_START = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    kills: int = 1_000
    """Number of kills, divided among the parts."""
    minutes: float = 1e6
    """Time after which no more runs are begun."""
    parts: tuple[str, ...] = tuple(part.name for part in PARTS)
    """The parts to do, by name."""
    seed: int = 0
    """Seed of the kinds and moments of the kills."""
    output: pathlib.Path = pathlib.Path("benchmarks/results")
    """Folder of the results."""
    folder: pathlib.Path | None = None
    """Folder of the runs, which keeps those that differ. Default: a temporary one."""


class Killed:
    """The runs of one part, one after the other, and what was seen of them."""

    def __init__(self, part: Part, folder: pathlib.Path, draw: random.Random) -> None:
        """Nothing is started yet."""
        self.part, self.draw = part, draw
        self.folder = folder / part.name.replace(" ", "-").replace(",", "")
        self._inputs = folder
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self._untouched = self.folder / "untouched"
        self._num_changes, self._secs = 1, _SLOWEST_SECS

    @property
    def has_begun(self) -> bool:
        return self.folder.exists()

    @property
    def kills(self) -> int:
        return sum(self.counts[aim] for aim in AIMS)

    def go_through(self, may_kill: Callable[[], bool]) -> None:
        """One run, killed and started again until it is finished, then compared."""
        if not self.has_begun:
            self._begin()
        self._until_done(self.folder / str(self.counts["runs"]), may_kill)

    def _begin(self) -> None:
        """Makes the untouched run in an ordinary process, and one more that is forked."""
        self.folder.mkdir()
        way = self.part.ways[0]
        if way.processes == 1 and way.devices == 1:
            program = [sys.executable, "-m", "bert_jax"]
        else:
            program = [sys.executable, "-m", "launch.local"]
            program += ["--processes", str(way.processes)]
            program += ["--devices", str(way.devices), "--"]
        command = map(str, self._command(way, self._untouched))
        subprocess.run([*program, *command], check=True, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        self._until_done(self.folder / "forked", lambda: False)
        self._secs = time.monotonic() - began

    def _until_done(self, run: pathlib.Path, may_kill: Callable[[], bool]) -> None:
        way, ends = self.part.ways[0], 0
        while True:
            if self.draw.random() < _OTHER_WAY and self.counts["starts"]:
                other = self.draw.choice(self.part.ways)
                self.counts["other devices"] += other != way
                way = other
            self.counts["starts"] += 1
            aim = self.draw.choice(AIMS) if may_kill() else None
            code = self._start(run, way, aim)
            if code == 0:
                break
            if code is not None:
                ends += 1
                self.problems.append(f"{run}: ended with {code} and was not killed")
                if ends == 3:
                    break
        self.counts["runs"] += 1
        compare = self.part.differences
        try:
            found = forked.in_fork(compare, run, self._untouched, self.part.limit)
        except RuntimeError as error:
            found = [str(error)]
        self.problems += [f"{run}: {line}" for line in found]
        for line in self.problems[-10:]:
            print(line, flush=True)

    def _command(self, way: Way, run: pathlib.Path) -> list[object]:
        return [*self.part.command(self._inputs), "--output", run, *way.flags]

    def _start(self, run: pathlib.Path, way: Way, aim: str | None) -> int | None:
        """Starts the processes and kills them or not; the exit code if none was killed."""
        changes = forked.Changes(run)
        victim = self.draw.randrange(way.processes)
        if aim == "before a change":
            # A session that goes on makes fewer changes than a whole one.
            most = self._num_changes ** self.draw.uniform(0.5, 1.0)
            changes.last = self.draw.randint(1, max(1, round(most)))
        port = local.free_port()
        members = []
        for number in range(way.processes):
            job = local.cluster_flags(port, way.processes, number)
            members.append(
                forked.Member(
                    [*self._command(way, run), *(job if way.processes > 1 else ())],
                    run.with_suffix(".log"),
                    devices=way.devices,
                    changes=changes if number == victim else None,
                    environment={
                        "BERT_JAX_JOB_TOKEN": f"kills-{port}",
                        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
                    },
                )
            )
        is_killed = self._wait(members, run, aim)
        if is_killed and self.draw.random() < 0.5:  # the others, or only one of them
            members[victim].kill()
        elif is_killed:
            for member in members:
                member.kill()
        deadline = time.monotonic() + _GRACE_SECS
        while _count(members) != len(members):
            time.sleep(0.005)
            if time.monotonic() > deadline:
                self.problems.append(f"{run}: a process went on after another's end")
                deadline += _SLOWEST_SECS
                for member in members:
                    member.kill()
        codes = [member.code for member in members]
        if aim is not None and -9 in codes:
            self.counts[aim] += 1
            if way.processes > 1 and codes != [-9] * way.processes:
                self.counts["one of two"] += 1
            return None
        self._num_changes = max(self._num_changes, changes.count)
        return max(codes, key=lambda code: code != 0)

    def _wait(
        self, members: Sequence[forked.Member], run: pathlib.Path, aim: str | None
    ) -> bool:
        """Returns when a process has ended, or it is time to kill; whether it is that."""
        began = time.monotonic()
        moment = _SLOWEST_SECS
        if aim == "at a time":
            moment = self.draw.uniform(0.0, self._secs)
        left, seen = self.draw.randint(1, 8), _state_of(run)
        while not _count(members):
            now = time.monotonic() - began
            if now > moment:
                if moment == _SLOWEST_SECS:
                    self.problems.append(f"{run}: a process hangs")
                return True
            if aim == "after a change":
                found = _state_of(run)
                left -= found != seen
                seen = found
                if left == 0:
                    time.sleep(self.draw.uniform(0.0, _DELAY_SECS))
                    return True
            time.sleep(0.001)
        return False


def _state_of(run: pathlib.Path) -> list[int]:
    """Changes when a name in the run directory or a line of metrics comes or goes."""
    places = (
        run,
        *(run / x for x in ("checkpoints", "best", "metrics.jsonl", "shards")),
    )
    found = []
    for place in places:
        try:
            found.append(place.stat().st_mtime_ns)
        except FileNotFoundError:
            found.append(0)
    return found


def _count(members: Sequence[forked.Member]) -> int:
    """How many have ended."""
    return sum(member.has_ended() for member in members)


def _fill(table: Table, killed: Killed) -> None:
    counts = killed.counts
    for what in ("runs", "starts"):
        table.add(killed.part.name, what, "", counts[what])
    table.add(killed.part.name, "kills", "", killed.kills)
    for aim in AIMS:
        table.add(killed.part.name, aim, "", counts[aim])
    for what in ("one of two", "other devices"):
        table.add(killed.part.name, what, "", counts[what])
    table.add(killed.part.name, "differences", "", len(killed.problems), at_most=0)
    for line in killed.problems[:20]:
        table.leave_out("equality", line)


def kill_all(options: Options, folder: pathlib.Path, report: Report) -> None:
    """All parts in turns, so that an early end leaves all of them with a part of the kills."""
    about = (
        "Starts: of processes or jobs, the last of each run untouched. At a time: drawn "
        "evenly. After a change: up to 30 ms after a name or a line was seen to come or go. "
        "Before a change: before Python makes, renames or deletes a file. One of two: only "
        "one process of the job. Other devices: starts on others than the start before. "
        "Differences: in tensors, metrics, TensorBoard, results, names of files, and "
        "processes that end or hang without a kill."
    )
    table = report.table("Killed and started again", about)
    parts = [part for part in PARTS if part.name in options.parts]
    draw = random.Random(options.seed)
    make_inputs(folder)
    deadline, written = time.monotonic() + 60.0 * options.minutes, time.monotonic()
    shares = sum(part.share for part in parts)
    killed = [Killed(part, folder, draw) for part in parts]

    def fill() -> None:
        table.figures.clear()
        table.left_out.clear()
        for one in killed:
            _fill(table, one)

    def missing(one: Killed) -> float:
        return options.kills * one.part.share / shares - one.kills

    def may_kill(one: Killed) -> bool:
        return missing(one) > 0 and time.monotonic() < deadline

    def turn(one: Killed) -> float:
        # An untouched run takes time, so the parts begin one after the other.
        waits = 0 if one.has_begun else _HEAD_START * killed.index(one)
        return max(waits, one.kills / one.part.share)

    try:
        while left := [one for one in killed if may_kill(one)]:
            one = min(left, key=turn)
            one.go_through(functools.partial(may_kill, one))
            print(json.dumps({"part": one.part.name, **one.counts}), flush=True)
            if time.monotonic() - written > _WRITE_SECS:
                fill()
                report.write()
                written = time.monotonic()
    finally:
        fill()
        table.end()


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    settings = {"kills": options.kills, "seed": options.seed}
    with start_report("kills", settings, options.output) as report:
        forked.load()
        if options.folder is not None:
            options.folder.mkdir(parents=True)
            kill_all(options, options.folder.resolve(), report)
        else:
            # Not as `TemporaryDirectory`, which the exit of a forked process would delete.
            folder = pathlib.Path(tempfile.mkdtemp(prefix="bert_jax_kills_"))
            try:
                kill_all(options, folder, report)
            finally:
                shutil.rmtree(folder)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Options, description=__doc__)))
