"""One command as a job of several processes on this machine, on CPU devices.

    python -m launch.local --processes 4 --devices 2 -- \\
        pretrain --config bert_tiny --data.dataset dataset --output run

The processes exchange arrays for real (Gloo), so this is a job of four hosts in all but
its speed. Each line of output begins with the number of its process. Ctrl-C and SIGTERM
reach every process once; when one process fails, all end.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

# The commands that take `--cluster`; the others have worker processes of their own.
COMMANDS = ("pretrain", "finetune", "evaluate")

# Gloo's C++ begins so what it prints about every group of devices.
_CHATTER = "[Gloo] Rank "
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# When one process has failed, the others end by themselves in this time, or are killed.
_GRACE_SECS = 30.0
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
        "--devices", type=int, default=1, metavar="M", help="CPU devices per process"
    )
    parser.add_argument(
        "command", nargs="+", help=f"one of {', '.join(COMMANDS)}, and its flags"
    )
    args = parser.parse_args(argv)
    if min(args.processes, args.devices) < 1:
        parser.error("--processes and --devices must be greater than 0")
    if args.command[0] not in COMMANDS:
        parser.error(
            f"{args.command[0]!r} is not one of {', '.join(COMMANDS)}; it is no job of "
            "several processes, so call bert-jax itself"
        )
    if any(word.startswith("--cluster.") for word in args.command):
        parser.error("leave out the flags of --cluster; this launcher sets them")
    return run_job(
        args.command, num_processes=args.processes, devices_each=args.devices
    )


def run_job(command: Sequence[str], *, num_processes: int, devices_each: int) -> int:
    """Runs one command of `bert-jax` as a job, its output to this process's own.

    Returns:
        0, or the exit code of the process that failed first; 128 + n for signal n.
    """
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda which, _: received.append(which))
        for number in _SIGNALS
    }
    lifeline, held = os.pipe()
    members: list[Member] = []
    try:
        port = free_port()
        for number in range(num_processes):
            flags = cluster_flags(port, num_processes, number)
            own_env = environment(port, devices_each)
            members.append(Member(number, [*command, *flags], own_env, lifeline))
        return _wait(members, received)
    finally:
        for member in members:
            member.send(signal.SIGKILL)  # only where this process itself has failed
        os.close(lifeline)
        os.close(held)
        for number, handler in before.items():
            signal.signal(number, handler)


def cluster_flags(port: int, num_processes: int, number: int) -> list[str]:
    """The flags that tell one process of its job."""
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
    """One process of the job, and the threads that pass its output on."""

    def __init__(
        self, number: int, command: list[str], env: dict[str, str], lifeline: int
    ) -> None:
        self.number = number
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
            if not line.startswith(_CHATTER):
                to.write(f"[{self.number}] {line}")
                to.flush()

    def send(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def has_ended(self) -> bool:
        """True once the process and its output are at their end."""
        if self.process.poll() is None:
            return False
        for reader in self._readers:
            reader.join()
        return True


def _wait(members: Sequence[Member], received: list[int]) -> int:
    running, first_failed, deadline = list(members), None, float("inf")
    while running:
        time.sleep(_LOOK_EVERY_SECS)
        while received:
            number = received.pop(0)
            for member in members:
                member.send(number)
        for member in [member for member in running if member.has_ended()]:
            running.remove(member)
            if member.process.returncode and first_failed is None:
                first_failed = member
                deadline = time.monotonic() + _GRACE_SECS
        if time.monotonic() > deadline:
            for member in running:
                member.send(signal.SIGKILL)
    if first_failed is None:
        return 0
    code = first_failed.process.returncode
    first = f"process {first_failed.number} of {len(members)}"
    print(f"{first} ended first, with exit code {code}", file=sys.stderr, flush=True)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
