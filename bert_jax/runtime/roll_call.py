"""Every process reports to process 0 before JAX connects them.

JAX ends a process without an exception when others of its job do not come, and does not
say which. Here process 0 waits on the coordinator's port, which JAX takes over
afterwards; it tells all who is missing, or that they differ.

One line of JSON each way: {"process", "count", "host", "facts"} and {"error"}.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bert_jax.runtime.differences import differences, named
from bert_jax.runtime.job import Job

_RETRY_SECS = 0.2
_REPORT = {"process": int, "count": int, "host": str, "facts": dict}
_ANSWER = {"error": str | None, "kind": str}

_LATE_SECS = 5.0  # after a refusal, for others that should hear of it
_LINE_SECS = 10.0  # for a line of text from somebody who has connected
_MOST_BYTES = 1 << 20
_JAX_STARTS_SECS = 60.0


def roll_call(job: Job, facts: Mapping[str, str], timeout_secs: float) -> None:
    """Returns in all processes when all are there and have the same `facts`.

    Raises, in all processes that came:
        TimeoutError: some did not come in time; they are named.
        ValueError: they differ in `facts`, two have one number, or process 0 cannot
            listen at the coordinator's address.
    """
    host, _, port = job.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"The coordinator {job.coordinator!r} is not HOST:PORT.")
    report = {
        "process": job.process_id,
        "count": job.num_processes,
        "host": socket.gethostname(),
        "facts": dict(facts),
    }
    if job.process_id == 0:
        _collect(job, int(port), report, timeout_secs)
    else:
        host = host.strip("[]")
        _report(job, (host, int(port)), report, timeout_secs)


def _collect(job: Job, port: int, own: dict[str, Any], timeout_secs: float) -> None:
    reports: dict[int, dict[str, Any]] = {0: own}
    error: Exception | None = None
    deadline = time.monotonic() + timeout_secs
    with contextlib.ExitStack() as connections:
        answers = []
        with _listening(port) as server:
            while len(reports) < job.num_processes:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    break
                connections.enter_context(connection)
                report = _line_of(connection, _REPORT)
                if report is None:
                    continue  # somebody else, such as a port scanner
                answers.append(connection)
                refusal = _refusal(job, reports, report, address[0])
                if refusal is None:
                    reports[report["process"]] = report
                elif error is None:
                    error = ValueError(refusal)
                    deadline = min(deadline, time.monotonic() + _LATE_SECS)
        if error is None and len(reports) < job.num_processes:
            error = TimeoutError(_missing(job, set(reports), timeout_secs))
        disagreement = _disagreement(reports)
        if error is None and disagreement is not None:
            error = ValueError(disagreement)
        line = {"error": error and str(error), "kind": type(error).__name__}
        for connection in answers:
            with contextlib.suppress(OSError):
                _send(connection, line)
    if error is not None:
        raise error


def _report(
    job: Job, address: tuple[str, int], own: dict[str, Any], timeout_secs: float
) -> None:
    deadline = time.monotonic() + timeout_secs
    answer, problem = None, "no attempt"
    while answer is None:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{_name(own)} found no process 0 of {job.num_processes} at "
                f"{job.coordinator} within {timeout_secs:.0f} s ({problem}). Is it "
                "started, is that its address, and does a firewall let the port through?"
            )
        try:
            with socket.create_connection(address, timeout=_LINE_SECS) as connection:
                _send(connection, own)
                # Process 0 may have come later, and waits as long for the others.
                answer = _line_of(connection, _ANSWER, timeout_secs + _LINE_SECS)
                problem = "what answers there is no process 0 of bert_jax"
        except OSError as error:
            problem = str(error)
        if answer is None:
            time.sleep(_RETRY_SECS)
    if answer["error"]:
        kind = TimeoutError if answer["kind"] == "TimeoutError" else ValueError
        raise kind(answer["error"])
    _wait_for_jax(address)


def _wait_for_jax(address: tuple[str, int]) -> None:
    """Until process 0 has opened the port again: JAX would retry more slowly."""
    deadline = time.monotonic() + _JAX_STARTS_SECS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=_LINE_SECS).close()
            return
        time.sleep(_RETRY_SECS / 10)


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
    """One line of JSON with these fields, or `None` from somebody who talks otherwise."""
    connection.settimeout(timeout_secs)
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < _MOST_BYTES:
            more = connection.recv(1 << 16)
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
    job: Job, reports: dict[int, dict[str, Any]], report: dict[str, Any], address: str
) -> str | None:
    number, count = report["process"], report["count"]
    if count != job.num_processes or not 0 < number < count:
        return (
            f"{_name(report)} at {address} says that it is one of {count} processes, "
            f"process 0 that there are {job.num_processes}; every process needs the same "
            "--cluster.num-processes."
        )
    if number in reports:
        return (
            f"Two processes say that they are number {number}: on {report['host']} and "
            f"on {reports[number]['host']}; give each its own --cluster.process-id."
        )
    return None


def _disagreement(reports: dict[int, dict[str, Any]]) -> str | None:
    names = [_name(reports[number]) for number in sorted(reports)]
    found = differences(names, [reports[n]["facts"] for n in sorted(reports)])
    if not found:
        return None
    return (
        f"The processes of this job differ: {'; '.join(found)}. Install the same on every "
        "host."
    )


def _name(report: Mapping[str, Any]) -> str:
    return f"process {report['process']} ({report['host']})"
