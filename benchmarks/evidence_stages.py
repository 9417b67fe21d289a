"""Runs commands of `bert-jax` one after the other and remembers which are done."""

import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a run may take to write a checkpoint when it is asked to stop.
_STOP_SECS = 120.0
_INTERRUPTED = 130

Call = Callable[[Sequence[str]], int]


class StageError(RuntimeError):
    """A command failed; what it said stands above."""


class Stages:
    """Commands by name, in stages.json of a folder: seconds of all sessions, done or not."""

    def __init__(
        self,
        workdir: pathlib.Path,
        tell: Callable[[str], None] = print,
        call: Call | None = None,
    ) -> None:
        """Takes up what `workdir` remembers.

        Args:
            tell: prints a line.
            call: runs `bert-jax` with arguments and gives its exit code; by default in a
                process of its own.
        """
        self.workdir, self._tell, self._call = workdir, tell, call or _run_command
        self._path = workdir / "stages.json"
        self.records: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self.records = json.loads(self._path.read_text())

    def run(self, name: str, argv: Sequence[str]) -> None:
        """Runs `bert-jax ARGV`, unless it is done already.

        Raises:
            StageError: it failed.
            KeyboardInterrupt: it was stopped; the same call goes on with it.
        """
        record = self.records.setdefault(name, {"seconds": 0.0, "done": False})
        if record["done"]:
            self._tell(f"{name}: done before, in {record['seconds']:.0f} s")
            return
        record["command"] = ["bert-jax", *argv]
        self._tell(f"$ {shlex.join(record['command'])}")
        started = time.perf_counter()
        try:
            code = self._call(argv)
        finally:
            record["seconds"] += time.perf_counter() - started
            self._save()
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise StageError(f"{name} ended with exit code {code}")
        record["done"] = True
        self._save()
        self._tell(f"({record['seconds']:.0f} s)")

    def seconds(self, name: str) -> float:
        """Of all sessions of a stage, as this process saw it."""
        return self.records[name]["seconds"]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make()` gave the first time: it must not change when a run goes on."""
        path = self.workdir / f"{name}.json"
        if not path.exists():
            _write(path, make())
        return json.loads(path.read_text())

    def _save(self) -> None:
        _write(self._path, self.records)


def _write(path: pathlib.Path, value: Any) -> None:
    """A reader, or a later session, sees the old file or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, path)


def _run_command(argv: Sequence[str]) -> int:
    return call([sys.executable, "-m", "bert_jax.cli", *argv])


def call(command: Sequence[str]) -> int:
    """Exit code of a command, which is asked to stop when this process is.

    Raises:
        KeyboardInterrupt: this process was; the command has ended.
    """
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": _python_path()},
        # The terminal's Ctrl-C comes to this process alone, which asks once.
        start_new_session=True,
    ) as process:
        try:
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def _python_path() -> str:
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(_ROOT), *([given] if given else [])])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the command alone, which then saves; at last its whole group."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECS)
    finally:  # of a second signal too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
