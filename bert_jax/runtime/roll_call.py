"""Every process reports to process 0 before JAX connects them.

When processes of a job do not come, JAX aborts the others and does not say which are
missing. Here process 0 waits at the coordinator's port, which JAX opens again afterwards,
and tells all who is missing. The connections stay open and become the job's channel.

One line of JSON each way: {"process", "count", "host", "token"} and {"error", "kind",
"host"}. Process 0 listens at the address of the job alone, and takes in only processes
with its own token, which is in the variable `BERT_JAX_JOB_TOKEN` of all of them.
"""

import contextlib
import hmac
import ipaddress
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
_REPORT = {"process": int, "count": int, "host": str, "token": str}
_ANSWER = {"error": str | None, "kind": str, "host": str}

_LATE_SECS = 5.0  # after an error, for processes that come later and should hear it
_LINE_SECS = 10.0  # for the line of a process that has connected
_MOST_BYTES = 1 << 16
TOKEN = "BERT_JAX_JOB_TOKEN"
"""Variable with the secret that the processes of a job share; empty where it is not set."""

# The system finds within half a minute that the machine at the other end is gone: it
# checks a connection that was silent for 10 s, three times in 15 s, and waits so long for
# what it has sent (milliseconds).
_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 25_000,
}


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
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"The coordinator {job.coordinator!r} is not HOST:PORT, with a port from 1 to "
            "65535."
        )
    if job.process_id == 0:
        return _collect(job, int(port), timeout_secs)
    return _report(job, (host.strip("[]"), int(port)), timeout_secs)


def _collect(job: Job, port: int, timeout_secs: float) -> dict[int, Peer]:
    host = socket.gethostname()
    peers: dict[int, Peer] = {}
    refused: list[socket.socket] = []
    error: Exception | None = None
    num_strangers = 0
    deadline = time.monotonic() + timeout_secs
    with _listening(job.coordinator.rpartition(":")[0].strip("[]"), port) as server:
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
            if not _is_ours(report["token"]):
                num_strangers += 1
                no_entry = {"error": _NO_ENTRY, "kind": "ValueError", "host": host}
                with contextlib.suppress(OSError), connection:
                    _send(connection, no_entry)
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
        missing = _missing(job, {0, *peers}, timeout_secs)
        if num_strangers:
            missing += (
                f" {num_strangers} were turned away: their {TOKEN} is another one."
            )
        error = TimeoutError(missing)
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
        "token": _token(),
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


def bind_host(coordinator: str) -> str:
    """The address of this machine that process 0 listens at; "": all of its addresses.

    JAX_COORDINATOR_BIND_ADDRESS goes first. All addresses are needed where the host's name
    has several, none that is this machine's own, as behind a NAT, or the loopback's, as
    some systems have it for their own name.
    """
    given = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    if given is not None:
        return given.rpartition(":")[0].strip("[]")
    try:
        found = {x[4][0] for x in socket.getaddrinfo(coordinator, None)}
        (address,) = map(str, found)
        is_loopback = ipaddress.ip_address(address).is_loopback
        if is_loopback and coordinator not in (address, "localhost"):
            return ""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as tried:
            tried.bind((address, 0))
    except (OSError, ValueError):
        return ""
    return address


def _token() -> str:
    return os.environ.get(TOKEN, "")


def _is_ours(token: str) -> bool:
    given, own = (x.encode(errors="surrogatepass") for x in (token, _token()))
    return hmac.compare_digest(given, own)


@contextlib.contextmanager
def _listening(coordinator: str, port: int) -> Iterator[socket.socket]:
    host = bind_host(coordinator)
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        server = socket.create_server(
            (host, port), family=family, dualstack_ipv6=dual, backlog=1_024
        )
    except OSError as error:
        raise ValueError(
            f"Process 0 cannot listen at port {port} ({error}). Is this the machine that "
            "the coordinator's address names, is no other process number 0, and is no other "
            "job using the port?"
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
    deadline = time.monotonic() + timeout_secs
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < _MOST_BYTES:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more = connection.recv(1)
            if not more:
                return None
            text += more
        line = json.loads(text)
        fits = all(isinstance(line[name], kind) for name, kind in fields.items())
        return line if fits else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


_NO_ENTRY = (
    f"Process 0 has another {TOKEN} than this process, so this is no process of its job. "
    "Give all processes of a job the same value, as launch/ does."
)


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
