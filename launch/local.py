"""One command as a job of several processes on this machine, on CPU devices.

    python -m launch.local --processes 4 --devices 2 -- \\
        pretrain --config bert_tiny --data.dataset dataset --workdir run

The processes exchange arrays for real (Gloo), so this is a job of four hosts in all but
its speed. Each line of output begins with the number of its process. Ctrl-C and SIGTERM
reach every process, once; when one fails, all end.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

# What takes `--cluster`; the others have worker processes of their own.
COMMANDS = ("pretrain", "finetune", "evaluate")

# Of Gloo's C++, about every group of devices.
_CHATTER = "[Gloo] Rank "
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_LINES = 20
# When one has failed, the others end by themselves; else they are asked to, then made to.
_GRACE_SECS = {signal.SIGTERM: 10.0, signal.SIGKILL: 30.0}
_LOOK_EVERY_SECS = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of the job."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="M", help="of each process"
    )
    parser.add_argument(
        "command", nargs="+", help=f"one of {', '.join(COMMANDS)}, and its flags"
    )
    args = parser.parse_args(argv)
    if min(args.processes, args.devices) < 1:
        parser.error("--processes and --devices must be greater than 0")
    if args.command[0] not in COMMANDS:
        parser.error(
            f"{args.command[0]!r} is none of {', '.join(COMMANDS)}: no job of several "
            "processes; call bert-jax itself"
        )
    if any(word.startswith("--cluster.") for word in args.command):
        parser.error("leave the flags of --cluster out: they are set here")
    return run_job(
        args.command, num_processes=args.processes, devices_each=args.devices
    )


def run_job(command: Sequence[str], *, num_processes: int, devices_each: int) -> int:
    """Runs one command of `bert-jax` as a job, its output to this process's own.

    Returns:
        0, or the exit code of the process that failed first; 128 + n for signal n.
    """
    lifeline, held = os.pipe()
    members: list[Member] = []
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, held)
        port = free_port()
        forward = stack.enter_context(_forwarding(members))
        for number in range(num_processes):
            flags = cluster_flags(port, num_processes, number)
            own_env = environment(port, devices_each)
            members.append(Member(number, [*command, *flags], own_env, lifeline))
        os.close(lifeline)
        forward.begin()
        return _wait(members)


def cluster_flags(port: int, num_processes: int, number: int) -> list[str]:
    """How one process is told of its job."""
    return [
        *("--cluster.kind", "flags"),
        *("--cluster.coordinator", f"127.0.0.1:{port}"),
        *("--cluster.num-processes", str(num_processes)),
        *("--cluster.process-id", str(number)),
    ]


def environment(port: int, devices_each: int) -> dict[str, str]:
    """Of each process: its own devices on this CPU, and a job that only it can join."""
    root = str(pathlib.Path(__file__).parents[1])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices_each),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }


def free_port() -> int:
    """A port of this machine that nobody listened at a moment ago."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


class Member:
    """One process of the job, and what passes its output on."""

    def __init__(
        self, number: int, command: list[str], env: dict[str, str], lifeline: int
    ) -> None:
        self.number = number
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch.member", str(lifeline), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            pass_fds=[lifeline],
            start_new_session=True,  # a terminal's Ctrl-C comes through here only
            text=True,
            errors="replace",
        )
        pairs = ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        self._readers = [
            threading.Thread(target=self._pass_on, args=pair, daemon=True)
            for pair in pairs
        ]
        for reader in self._readers:
            reader.start()

    def _pass_on(self, lines: IO[str], to: IO[str]) -> None:
        for line in lines:
            if line.startswith(_CHATTER):
                continue
            self.last_lines.append(line.rstrip("\n"))
            to.write(f"[{self.number}] {self.last_lines[-1]}\n")
            to.flush()

    def send(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def finish(self) -> None:
        """Waits for the process and the rest of its output."""
        self.process.wait()
        for reader in self._readers:
            reader.join()


def _wait(members: Sequence[Member]) -> int:
    running, first_failed = list(members), None
    pending: dict[float, int] = {}  # time -> signal
    while running:
        time.sleep(_LOOK_EVERY_SECS)
        for member in list(running):
            code = member.process.poll()
            if code is None:
                continue
            running.remove(member)
            member.finish()
            if code and first_failed is None:
                first_failed = member
                now = time.monotonic()
                pending = {now + secs: name for name, secs in _GRACE_SECS.items()}
        for due in [due for due in pending if due < time.monotonic()]:
            number = pending.pop(due)
            for member in running:
                member.send(number)
    if first_failed is None:
        return 0
    code = first_failed.process.returncode
    print(
        f"process {first_failed.number} of {len(members)} ended first, with exit code "
        f"{code}; its last lines:",
        *(f"    {line}" for line in first_failed.last_lines),
        sep="\n",
        file=sys.stderr,
        flush=True,
    )
    return 128 - code if code < 0 else code


class _forwarding:
    """SIGINT and SIGTERM go to every process; before all have started, they wait."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._begun = False
        self._early: list[int] = []

    def __enter__(self) -> "_forwarding":
        self._before = {
            number: signal.signal(number, self._forward) for number in _SIGNALS
        }
        return self

    def __exit__(self, *exc: object) -> None:
        for member in self._members:
            member.send(signal.SIGKILL)  # only where this process itself has failed
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        self._begun = True
        for number in self._early:
            self._forward(number, None)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if not self._begun:
            self._early.append(number)
            return
        for member in self._members:
            member.send(number)


if __name__ == "__main__":
    sys.exit(main())
