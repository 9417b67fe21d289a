"""What the processes of a job tell each other: settled questions, and failures."""

import concurrent.futures
import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from bert_jax.runtime.channel import Channel, Peer
from bert_jax.runtime.failure import Failure
from bert_jax.runtime.process import Process
from launch import local


class Left(BaseException):
    """Stands for the end of a process."""


class Trio:
    """The channels of three processes, all in this one."""

    def __init__(self) -> None:
        pairs = {number: socket.socketpair() for number in (1, 2)}
        hub = {n: Peer(f"host{n}", ends[0]) for n, ends in pairs.items()}
        self.sockets = [end for ends in pairs.values() for end in ends]
        self.left: dict[int, Failure] = {}
        self.channels = [self._channel(0, hub)]
        for number, ends in pairs.items():
            own = self._channel(number, {0: Peer("host0", ends[1])})
            self.channels.append(own)

    def _channel(self, number: int, peers: dict[int, Peer]) -> Channel:
        def leave(failure: Failure) -> None:
            self.left[number] = failure
            raise Left

        return Channel(Process(number, 3), peers, leave)

    def settle(self, questions, decide, timeout_secs=20.0) -> list:
        """What each process gets, or raises, that asks a question; `None` asks none."""

        def one(number: int) -> object:
            if questions[number] is None:
                return None
            own = self.channels[number]
            try:
                said = f"text of {number}"
                return own.settle(questions[number], said, decide, timeout_secs)
            except (Exception, Left) as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            return list(threads.map(one, range(3)))


@pytest.fixture
def trio(monkeypatch):
    monkeypatch.setattr("bert_jax.runtime.channel._GRACE_SECS", 0.1)
    trio = Trio()
    yield trio
    for channel in trio.channels:
        channel.close()
    for end in trio.sockets:
        end.close()


def test_process_0_decides_from_what_all_say(trio):
    for _ in range(3):
        answers = trio.settle(["q"] * 3, lambda texts: {"said": texts})
        assert answers == [{"said": [f"text of {n}" for n in range(3)]}] * 3


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (ValueError("no"), ValueError),
        (FileNotFoundError("no"), ValueError),
        (TimeoutError("no"), TimeoutError),
        (KeyError("no"), RuntimeError),
    ],
    ids=repr,
)
def test_an_error_of_process_0_is_raised_by_all(trio, error, elsewhere):
    def decide(texts):
        raise error

    first, *others = trio.settle(["q"] * 3, decide)
    assert first is error
    for other in others:
        assert type(other) is elsewhere
        assert str(other) == str(error)


def test_what_the_system_refused_to_process_0_is_told_in_words(trio):
    def decide(texts):
        raise OSError(errno.ENOSPC, "No space left on device", "run/config.json")

    for other in trio.settle(["q"] * 3, decide)[1:]:
        assert str(other).startswith("run/config.json: no space left on device. Make")


def test_who_does_not_come_is_named_to_all(trio):
    first, _, third = trio.settle(["q", None, "q"], len, timeout_secs=0.2)
    for error in (first, third):
        assert isinstance(error, TimeoutError)
        assert "for process 1 (host1) to reach 'q'" in str(error)


def test_process_0_that_does_not_come_is_named(trio):
    _, second, _ = trio.settle([None, "q", None], len, timeout_secs=0.1)
    assert isinstance(second, TimeoutError)
    assert "for process 0 (host0) to reach 'q'" in str(second)


def test_processes_that_ask_different_questions(trio):
    for error in trio.settle(["a", "a", "b"], len):
        assert isinstance(error, RuntimeError)
        assert "Process 2 asks for 'b' while process 0 asks for 'a'" in str(error)


@pytest.mark.parametrize("number", [0, 2])
def test_a_failure_ends_those_who_wait(trio, number):
    questions = [None if n == number else "q" for n in range(3)]
    trio.channels[number].tell("no disk", 7)
    raised = trio.settle(questions, len)
    assert [isinstance(error, Left) for error in raised] == [
        x == "q" for x in questions
    ]
    assert number not in trio.left
    for failure in trio.left.values():
        assert (failure.number, failure.message, failure.exit_code) == (
            *(number, "no disk", 7),
        )
    other = trio.channels[1]
    assert other.failure_of_another(1.0).message == "no disk"
    assert trio.channels[number].failure_of_another(1.0) is None


def test_a_process_that_is_killed_is_named(trio):
    trio.sockets[3].shutdown(socket.SHUT_RDWR)  # the end of process 2
    raised = trio.settle(["q", "q", None], len)
    assert all(isinstance(error, Left) for error in raised[:2])
    assert str(trio.left[1]).startswith("process 2 (host2) failed: it was killed, or")
    assert trio.left[0].exit_code == 134


def test_a_process_that_ends_well_is_no_failure(trio):
    trio.channels[1].close()
    trio.sockets[1].shutdown(socket.SHUT_RDWR)
    assert trio.channels[0].failure_of_another(0.3) is None
    trio.channels[0].close()
    trio.channels[2].tell("late", 1)
    assert trio.channels[0].failure_of_another(0.3) is None


# A job of processes that agree without JAX, which takes seconds to start.
MEMBER = """
import json, os, sys, time
from bert_jax.runtime import agreement, channel, process
from bert_jax.runtime.job import Job
from bert_jax.runtime.roll_call import roll_call

number, port = int(sys.argv[1]), int(sys.argv[2])
me = process.Process(number, 3)
peers = roll_call(Job(f"127.0.0.1:{port}", 3, number, ""), 30)

def leave(failure):
    print(json.dumps(str(failure)), flush=True)
    os._exit(failure.exit_code)

channel.use(channel.Channel(me, peers, leave))
agreement.agree("the run", {"seed": 1})
try:
    agreement.agree("the run", {"seed": min(number, 1)})
except ValueError as error:
    differs = str(error)
found = [
    differs,
    agreement.on_first_host("a look", lambda: {"number": number}),
    agreement.any_host(number == 2),
    agreement.any_host(False),
]
print(json.dumps([*found, "jax" in sys.modules]), flush=True)
if number == 1:
    sys.stdin.read()
agreement.any_host(False)
"""


def test_three_processes_agree_and_end_when_one_is_killed():
    port = str(local.free_port())
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(number), port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    said = [json.loads(member.stdout.readline()) for member in members]
    assert said[0] == said[1] == said[2]
    host = socket.gethostname()
    expected = f"differ in the run: seed is 0 on process 0 ({host}) and 1 elsewhere"
    assert expected in said[0][0]
    assert said[0][1:] == [{"number": 0}, True, False, False]

    os.kill(members[1].pid, signal.SIGKILL)
    ends = [member.communicate(timeout=30)[0] for member in members]
    assert [member.returncode for member in members] == [134, -signal.SIGKILL, 134]
    for number in (0, 2):
        assert f"process 1 ({host}) failed: it was killed" in ends[number]
