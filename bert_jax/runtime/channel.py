"""The connections over which the processes of a job agree and hear of failures.

Every process keeps one TCP connection to process 0 until the job ends. JAX's coordination
service could carry the same messages, but JAX has no public function for that. The
collectives of `jax.experimental.multihost_utils` are no replacement: they wait for the
devices, and they hang when a process is gone.

A message is one line of JSON, `[kind, *content]`. Kinds: "say" (to process 0: question and
own text), "answer" (from process 0), "failure", "busy" from a process that does something
else than train, and "bye" before a process ends well.
"""

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bert_jax.runtime.differences import named
from bert_jax.runtime.explanations import explanation
from bert_jax.runtime.failure import CRASHED, Failure
from bert_jax.runtime.process import Process

# After a failure, each process has this long to end with an error of its own.
_GRACE_SECS = 5.0
# Process 0 hosts JAX's coordination service, so it ends last, but waits no longer than this.
_LAST_SECS = 15.0


class Peer(NamedTuple):
    """The other end of a connection."""

    host: str
    connection: socket.socket


class Channel:
    """One process's connections: to process 0, or in process 0 to all the others."""

    def __init__(
        self,
        me: Process,
        peers: Mapping[int, Peer],
        leave: Callable[[Failure], None],
    ) -> None:
        """Starts to listen.

        Args:
            me: this process.
            peers: by number; all others in process 0, process 0 alone elsewhere.
            leave: must end this process because another one failed.
        """
        self.me = me
        self.hosts = {me.number: socket.gethostname()}
        self.hosts |= {number: peer.host for number, peer in peers.items()}
        self._peers = peers
        self._leave = leave
        self._failure: Failure | None = None
        self._has_failed = threading.Event()
        self._closed = False
        self._heard_busy = float("-inf")
        self._lock = threading.Lock()
        self._arrived: queue.Queue[tuple[int, list[Any]] | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(number, peer), daemon=True)
            for number, peer in peers.items()
        ]
        for reader in self._readers:
            reader.start()

    def settle(
        self,
        question: str,
        own: str,
        decide: Callable[[list[str]], Any],
        timeout_secs: float,
    ) -> Any:
        """Process 0 decides from what all processes say; every process gets the answer.

        All processes must ask the same questions in the same order.

        Args:
            question: in words, for errors.
            own: what this process says.
            decide: runs in process 0 alone, on what the processes said, by number; the
                result must be fit for JSON.
            timeout_secs: how long process 0 waits for the others.

        Raises:
            Whatever `decide` raises, in process 0. In the others a TimeoutError or a
            ValueError with the same message, or a RuntimeError where it was another error.
            TimeoutError: a process did not come; it is named.
        """
        if self.me.number == 0:
            try:
                answer = decide(self._collect(question, own, timeout_secs))
            except Exception as error:
                said = explanation(error) or str(error)
                self._send_all("answer", None, _kind_of(error), said)
                raise
            self._send_all("answer", answer)
            return answer
        self._send_all("say", question, own)
        # Process 0 may wait that long for others, and then work that long itself.
        patience = 2 * timeout_secs
        try:
            answer, *problem = self._next(patience)[1]
        except queue.Empty:
            raise TimeoutError(_late(question, [0], self.hosts, patience)) from None
        if problem:
            kind, message = problem
            raise _KINDS[kind](message)
        return answer

    def tell(self, message: str, exit_code: int, *, with_stacks: bool = False) -> None:
        """Tells all processes that this one fails, so that they end too."""
        number = self.me.number
        host = self.hosts[number]
        self._hear(Failure(number, host, message, exit_code, with_stacks))

    def failure_of_another(self, timeout_secs: float) -> Failure | None:
        """The failure of another process, once it is told; `None` if it is not in time."""
        self._has_failed.wait(timeout_secs)
        failure = self._failure
        return None if failure is None or failure.number == self.me.number else failure

    def say_busy(self) -> None:
        """Tells all processes that the others wait for this one for a good reason."""
        self._send_all("busy")

    def secs_since_busy(self) -> float:
        """Seconds since a process said so; infinite if none has."""
        return time.monotonic() - self._heard_busy

    def wait_to_be_last(self) -> None:
        """In process 0: returns when all others have ended, or do not end."""
        if self.me.number == 0:
            deadline = time.monotonic() + _LAST_SECS
            for reader in self._readers:
                reader.join(max(deadline - time.monotonic(), 0.0))

    def close(self) -> None:
        """Says that this process ends well; failures of others concern it no more."""
        self._closed = True
        self._send_all("bye")

    def _collect(self, question: str, own: str, timeout_secs: float) -> list[str]:
        said = {0: own}
        deadline = time.monotonic() + timeout_secs
        while len(said) < self.me.count:
            try:
                number, (asked, text) = self._next(deadline - time.monotonic())
            except queue.Empty:
                late = [n for n in range(self.me.count) if n not in said]
                message = _late(question, late, self.hosts, timeout_secs)
                raise TimeoutError(message) from None
            if asked != question:
                raise RuntimeError(
                    f"Process {number} asks for {asked!r} while process 0 asks for "
                    f"{question!r}."
                )
            said[number] = text
        return [said[number] for number in range(self.me.count)]

    def _next(self, timeout_secs: float) -> tuple[int, list[Any]]:
        """The next message; ends this process when another one has failed."""
        arrived = self._arrived.get(timeout=max(timeout_secs, 0.0))
        if arrived is None:
            assert self._failure is not None
            self._leave(self._failure)
            raise AssertionError("`leave` must not return")
        return arrived

    def _read(self, number: int, peer: Peer) -> None:
        # A process that is killed may leave half a line.
        with (
            contextlib.suppress(OSError, ValueError),
            peer.connection.makefile(encoding="utf-8") as lines,
        ):
            for line in lines:
                kind, *content = json.loads(line)
                if kind == "bye":
                    return
                if kind == "failure":
                    self._hear(Failure(*content))
                elif kind == "busy":
                    self._heard_busy = time.monotonic()
                    if self.me.number == 0:
                        self._send_all("busy")  # no other process hears the one
                else:
                    self._arrived.put((number, content))
        message = "it was killed, or its connection broke"
        self._hear(Failure(number, peer.host, message, CRASHED))

    def _hear(self, failure: Failure) -> None:
        with self._lock:
            if self._failure is not None or self._closed:
                return
            self._failure = failure
        self._send_all("failure", *failure)
        self._has_failed.set()
        if failure.number != self.me.number:
            self._arrived.put(None)
            timer = threading.Timer(_GRACE_SECS, self._leave_unless_closed, (failure,))
            timer.daemon = True
            timer.start()

    def _leave_unless_closed(self, failure: Failure) -> None:
        if not self._closed:
            self._leave(failure)

    def _send_all(self, *message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            for peer in self._peers.values():
                # The reader of a connection that is broken says so.
                with contextlib.suppress(OSError):
                    peer.connection.sendall(line)


_KINDS = {kind.__name__: kind for kind in (TimeoutError, ValueError, RuntimeError)}


def _kind_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "TimeoutError"
    return "ValueError" if isinstance(error, ValueError | OSError) else "RuntimeError"


def _late(
    question: str, late: list[int], hosts: Mapping[int, str], timeout_secs: float
) -> str:
    who = f"process {late[0]} ({hosts[late[0]]})"
    if len(late) > 1:
        who = f"processes {named(late)}"
    return (
        f"The other processes waited {timeout_secs:.0f} s for {who} to reach "
        f"{question!r}; see what it printed last, or whether its machine hangs."
    )


_current: Channel | None = None


def current() -> Channel | None:
    """The channel of this process's job; `None` where it is alone."""
    return _current


def use(channel: Channel) -> None:
    """Makes this the channel of this process."""
    global _current
    _current = channel
