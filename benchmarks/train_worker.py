"""A process that trains one candidate whenever it is told to, and stands still between.

Candidates can be measured in turns this way, though neither library lets another use the
cores or the memory of the device beside it in one process.
"""

import contextlib
import importlib
import json
import math
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from typing import Any, Protocol

from benchmarks.train_candidates import Candidate, Order
from bert_jax.cli import HUGE_PAGES

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_MODULES = {"bert_jax": "benchmarks.train_ours", "PyTorch": "benchmarks.train_torch"}
_SHOWN = 300
# At the start a model knows nothing: the loss is that of guessing, within so many nats.
_LOSS_SLACK = 1.0
# glibc reads it when a process starts; `bert-jax` starts itself again with it. PyTorch
# has what its users have: huge pages cost it a tenth to a fifth (mini, 32 rows).
_ALLOCATOR = {
    "bert_jax": {"GLIBC_TUNABLES": HUGE_PAGES},
    "PyTorch": dict[str, str](),
}


class Trainer(Protocol):
    """What a library's module calls `Trainer` and builds from an `Order`.

    It comes warm: compiled, if the library compiles.
    """

    facts: dict[str, float]
    """Seconds and GiB that building it took."""

    def steps(self, count: int) -> dict[str, float]:
        """Trains `count` steps to their end: `seconds`, and the `host_seconds` of them."""

    def loss(self) -> float:
        """Of the last step, in nats."""

    def peak_bytes(self) -> float:
        """Most memory so far: of the device; of this process where that is the host."""


class WorkerError(RuntimeError):
    """A candidate that cannot be measured, and why."""


class Worker:
    """The process of one candidate, from its parent's side."""

    def __init__(self, order: Order, log: pathlib.Path) -> None:
        """Starts it; nothing waits until `ready`.

        Args:
            log: what its libraries print.
        """
        self.order, self._log = order, log
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train_worker"],
            cwd=_ROOT,
            env=_ALLOCATOR[order.candidate.library]
            | os.environ
            # Or what an earlier run compiled would pass for quickly compiled.
            | {"TORCHINDUCTOR_CACHE_DIR": str(log.parent / "inductor")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            # With the compilers that it starts: they would go on beside what is measured.
            process_group=0,
        )
        self._unread = b""
        self._send(order.to_json())

    @property
    def candidate(self) -> Candidate:
        return self.order.candidate

    def ready(self, seconds: float) -> dict[str, Any] | None:
        """What building it said, or `None`: not yet, after so many seconds.

        Raises:
            WorkerError: it failed.
        """
        answer = self._receive(seconds)
        if answer is not None:
            self._signal(signal.SIGSTOP)
        return answer

    def steps(self, count: int, seconds: float) -> dict[str, Any]:
        """Lets it train so many steps after one that is not measured, and stops it again.

        Raises:
            WorkerError: it failed, or took longer than `seconds`.
        """
        self._signal(signal.SIGCONT)
        self._send({"steps": count})
        answer = self._receive(seconds)
        if answer is None:
            raise WorkerError(f"time: {count} steps took more than {seconds:.0f} s")
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """Ends it at once, and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._file):
            with contextlib.suppress(OSError):
                assert file is not None
                file.close()

    def _signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # A process that died says why when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                code = self._process.wait()
                raise WorkerError(f"it ended with exit code {code}: {self._said()}")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _said(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-_SHOWN:] if lines else "it said nothing"


def check_loss(loss: float, vocab_size: int) -> None:
    """A step that does other work than training must not be measured.

    Raises:
        ValueError: `loss`, of one of the first steps, is not that of an untrained model.
    """
    expected = math.log(vocab_size) + math.log(2)
    if not abs(loss - expected) < _LOSS_SLACK:
        raise ValueError(
            f"the loss is {loss:.3f} nats; an untrained model has about {expected:.3f}"
        )


def main() -> None:
    """Of the worker's process."""
    # Libraries print where they like: answers go through a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")

    order = Order.from_json(json.loads(sys.stdin.readline()))
    try:
        module = importlib.import_module(_MODULES[order.candidate.library])
        trainer: Trainer = module.Trainer(order)
        first = trainer.steps(1)
        check_loss(trainer.loss(), order.task.vocab_size)
        answer({"facts": trainer.facts, "step": first["seconds"]})
        for line in sys.stdin:
            # Training does not stand still, and a virtual machine takes back what memory
            # is free when it does: the step after a pause takes up to twice as long.
            trainer.steps(1)
            done = trainer.steps(json.loads(line)["steps"])
            check_loss(trainer.loss(), order.task.vocab_size)
            answer(done | {"peak_bytes": trainer.peak_bytes()})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"[:_SHOWN]})
        raise


if __name__ == "__main__":
    main()
