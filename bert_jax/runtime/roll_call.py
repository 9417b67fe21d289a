"""Every process reports to process 0 before JAX connects them.

When processes of a job do not come, JAX aborts the others and does not say which are
missing. Here process 0 waits at the coordinator's port, which JAX opens again afterwards,
and tells all who is missing. The connections stay open and become the job's channel.

One line of JSON each way: {"process", "count", "host"} and {"error", "kind", "host"}.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bert_jax.runtime.channel import Peer
from bert_jax.runtime.differences import named
from bert_jax.runtime.job import Job

_RETRY_SECS = 0.2
_REPORT = {"process": int, "count": int, "host": str}
_ANSWER = {"error": str | None, "kind": str, "host": str}

_LATE_SECS = 5.0  # after an error, for processes that come later and should hear it
_LINE_SECS = 10.0  # for the line of a process that has connected
_MOST_BYTES = 1 << 16
# The system checks a connection that was silent for a minute, six times in a minute.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


def roll_call(job: Job, timeout_secs: float) -> dict[int, Peer]:
    """Returns in all processes when all are there.

    Returns:
        In process 0 the connections to all others, by number; in the others the one to
        process 0.

    Raises, in all processes that came:
        TimeoutError: some did not come in time; they are named.
        ValueError: two have one number, they count differently, or process 0 cannot
            listen at the coordinator's address.
    """
    host, _, port = job.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"The coordinator {job.coordinator!r} is not HOST:PORT.")
    if job.process_id == 0:
        return _collect(job, int(port), timeout_secs)
    return _report(job, (host.strip("[]"), int(port)), timeout_secs)


def _collect(job: Job, port: int, timeout_secs: float) -> dict[int, Peer]:
    host = socket.gethostname()
    peers: dict[int, Peer] = {}
    refused: list[socket.socket] = []
    error: Exception | None = None
    deadline = time.monotonic() + timeout_secs
    with _listening(port) as server:
        while len(peers) + 1 < job.num_processes:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, address = server.accept()
            except TimeoutError:
                break
            report = _line_of(connection, _REPORT)
            if report is None:  # somebody else, such as a port scanner
                connection.close()
                continue
            hosts = {0: host, **{n: peer.host for n, peer in peers.items()}}
            refusal = _refusal(job, hosts, report, address[0])
            if refusal is None:
                peers[report["process"]] = _peer(report["host"], connection)
                continue
            refused.append(connection)
            if error is None:
                error = ValueError(refusal)
                deadline = min(deadline, time.monotonic() + _LATE_SECS)
    if error is None and len(peers) + 1 < job.num_processes:
        error = TimeoutError(_missing(job, {0, *peers}, timeout_secs))
    answer = {"error": error and str(error), "kind": type(error).__name__, "host": host}
    for connection in (*refused, *(peer.connection for peer in peers.values())):
        with contextlib.suppress(OSError):
            _send(connection, answer)
        if error is not None:
            connection.close()
    if error is not None:
        raise error
    return peers


def _report(job: Job, address: tuple[str, int], timeout_secs: float) -> dict[int, Peer]:
    own = {
        "process": job.process_id,
        "count": job.num_processes,
        "host": socket.gethostname(),
    }
    deadline = time.monotonic() + timeout_secs
    problem = "no attempt"
    while time.monotonic() < deadline:
        with contextlib.ExitStack() as unless_joined:
            try:
                connection = socket.create_connection(address, timeout=_LINE_SECS)
                unless_joined.enter_context(connection)
                _send(connection, own)
                # Process 0 may have come later, and waits as long for the others.
                answer = _line_of(connection, _ANSWER, timeout_secs + _LINE_SECS)
            except OSError as error:
                answer, problem = None, str(error)
            else:
                problem = "what answers there is no process 0 of bert_jax"
            if answer is not None and answer["error"]:
                kind = TimeoutError if answer["kind"] == "TimeoutError" else ValueError
                raise kind(answer["error"])
            if answer is not None:
                unless_joined.pop_all()
                return {0: _peer(answer["host"], connection)}
        time.sleep(_RETRY_SECS)
    raise TimeoutError(
        f"{_name(own)} found no process 0 of {job.num_processes} at {job.coordinator} "
        f"within {timeout_secs:.0f} s ({problem}). Is it started, is that its address, and "
        "does a firewall let the port through?"
    )


def _peer(host: str, connection: socket.socket) -> Peer:
    """Lets the system check a silent connection, and end it when the machine is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Peer(host, connection)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    given = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    host = "" if given is None else given.rpartition(":")[0].strip("[]")
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        server = socket.create_server(
            (host, port), family=family, dualstack_ipv6=dual, backlog=1_024
        )
    except OSError as error:
        raise ValueError(
            f"Process 0 cannot listen at port {port} ({error}). Is this the machine that "
            "the coordinator's address names, and is no other job using the port?"
        ) from error
    with server:
        yield server


def _line_of(
    connection: socket.socket,
    fields: Mapping[str, Any],
    timeout_secs: float = _LINE_SECS,
) -> dict[str, Any] | None:
    """One line of JSON with these fields; `None` where something else arrives.

    It is read byte by byte, since what follows the line belongs to the channel.
    """
    connection.settimeout(timeout_secs)
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < _MOST_BYTES:
            more = connection.recv(1)
            if not more:
                return None
            text += more
        line = json.loads(text)
        fits = all(isinstance(line[name], kind) for name, kind in fields.items())
        return line if fits else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _send(connection: socket.socket, line: dict[str, Any]) -> None:
    connection.sendall(json.dumps(line).encode() + b"\n")


def _missing(job: Job, there: set[int], timeout_secs: float) -> str:
    gone = [n for n in range(job.num_processes) if n not in there]
    return (
        f"{len(gone)} of {job.num_processes} processes did not come to {job.coordinator} "
        f"within {timeout_secs:.0f} s: {named(gone)}. Start the command on every host, "
        "and look at the first lines that they printed."
    )


def _refusal(
    job: Job, hosts: Mapping[int, str], report: dict[str, Any], address: str
) -> str | None:
    number, count = report["process"], report["count"]
    if count != job.num_processes or not 0 <= number < count:
        return (
            f"{_name(report)} at {address} says that it is one of {count} processes, "
            f"process 0 that there are {job.num_processes}; every process needs the same "
            "--cluster.num-processes."
        )
    if number in hosts:
        return (
            f"Two processes say that they are number {number}: on {report['host']} and "
            f"on {hosts[number]}; give each its own --cluster.process-id."
        )
    return None


def _name(report: Mapping[str, Any]) -> str:
    return f"process {report['process']} ({report['host']})"
