"""One command as a job of several processes on this machine, on CPU devices.

    python -m launch.local --processes 4 --devices 2 -- \\
        pretrain --config bert_tiny --data.dataset dataset --output run

The processes exchange arrays for real (Gloo), so this is a job of four hosts in all but
its speed. Each line of output begins with the number of its process. Ctrl-C and SIGTERM
reach every process once; when one process fails, all end.
"""

import argparse
import asyncio
import os
import pathlib
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from typing import IO

from bert_jax.runtime import start

# The commands that take `--cluster`; the others have worker processes of their own.
COMMANDS = ("pretrain", "finetune", "sweep", "evaluate")

# Gloo's C++ begins so what it prints about every group of devices.
_CHATTER = "[Gloo] Rank "
# When one process has failed, the others end by themselves in this time, or are killed.
_GRACE_SECS = 30.0
_LONGEST_LINE = 1 << 24  # bytes


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
    words = list(sys.argv[1:] if argv is None else argv)
    if "--" not in words and not {"-h", "--help"} & {*words}:
        parser.error("write -- before the command")
    args = parser.parse_args(words)
    if min(args.processes, args.devices) < 1:
        parser.error("--processes and --devices must be greater than 0")
    if args.command[0] not in COMMANDS:
        parser.error(
            f"{args.command[0]!r} is not one of {', '.join(COMMANDS)}; it is no job of "
            "several processes, so call bert-jax itself"
        )
    if any(word.startswith("--cluster.") for word in args.command):
        parser.error("leave out the flags of --cluster; this launcher sets them")
    job = run_job(args.command, num_processes=args.processes, devices_each=args.devices)
    return asyncio.run(job)


async def run_job(
    command: Sequence[str], *, num_processes: int, devices_each: int
) -> int:
    """Runs one command of `bert-jax` as a job, its output to this process's own.

    Returns:
        0, or the exit code of the process that failed first; 128 + n for signal n.
    """
    port, loop = free_port(), asyncio.get_running_loop()
    os.environ.setdefault("BERT_JAX_JOB_TOKEN", secrets.token_hex(16))
    # The processes end when nobody holds the other end of this pipe any more.
    lifeline, _ = os.pipe()
    members = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "launch.member", str(lifeline), *command),
            *cluster_flags(port, num_processes, number),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(port, devices_each),
            pass_fds=[lifeline],
            start_new_session=True,  # a terminal's Ctrl-C comes through here only
            limit=_LONGEST_LINE,
        )
        for number in range(num_processes)
    ]

    def send_all(signal_number: int) -> None:
        for member in members:
            if member.returncode is None:
                member.send_signal(signal_number)

    for signal_number in filter(start.takes, start.STOP_SIGNALS):
        loop.add_signal_handler(signal_number, send_all, signal_number)
    failed: list[tuple[int, int]] = []

    async def attend(number: int) -> None:
        member = members[number]
        assert member.stdout is not None
        assert member.stderr is not None
        await asyncio.gather(
            _pass_on(number, member.stdout, sys.stdout),
            _pass_on(number, member.stderr, sys.stderr),
        )
        if code := await member.wait():
            failed.append((number, code))
            loop.call_later(_GRACE_SECS, send_all, signal.SIGKILL)

    await asyncio.gather(*map(attend, range(num_processes)))
    if not failed:
        return 0
    number, code = failed[0]
    first = f"process {number} of {num_processes}"
    print(f"{first} ended first, with exit code {code}", file=sys.stderr, flush=True)
    return 128 - code if code < 0 else code


async def _pass_on(number: int, lines: asyncio.StreamReader, to: IO[str]) -> None:
    async for line in lines:
        text = line.decode(errors="replace")
        if not text.startswith(_CHATTER):
            to.write(f"[{number}] {text}")
            to.flush()


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


if __name__ == "__main__":
    sys.exit(main())
