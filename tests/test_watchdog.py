"""A run whose steps stop coming is ended, and nothing else is."""

import subprocess
import sys
import threading
import time

import pytest
from test_channel import Trio
from test_start import environment

from bert_jax.train.monitoring import watchdog
from bert_jax.train.monitoring.watchdog import Watchdog


@pytest.fixture
def quick(monkeypatch):
    """All times a thousandth, but for the pauses that count as those of the process."""
    monkeypatch.setattr(watchdog, "_LEAST_SECS", 0.12)
    monkeypatch.setattr(watchdog, "_UNTIMED_SECS", 1.8)
    monkeypatch.setattr(watchdog, "_LOOK_SECS", 0.001)


class Looked:
    """A loop that a test moves, and what the watchdog says of it."""

    def __init__(self) -> None:
        self.state: tuple[int, int] | None = (7, 0)
        self.ended = threading.Event()
        self.said = ""
        self.dog = Watchdog(lambda: self.state, self._end)

    def _end(self, message: str) -> None:
        self.said = message
        self.ended.set()


@pytest.fixture
def looked(quick):
    looked = Looked()
    yield looked
    looked.dog.close()


def test_a_loop_without_steps_is_ended(looked):
    for secs in (0.002, 0.001, 9.0):  # the median counts
        looked.dog.timed(secs)
    assert looked.ended.wait(5)
    assert "after step 7, where one took 0.002 s before; a device or a" in looked.said


def test_steps_that_have_not_come_back_have_their_time(looked):
    looked.dog.timed(0.01)
    looked.state = (8, 90)  # a second of work
    assert not looked.ended.wait(0.5)
    assert looked.ended.wait(5)


def test_steps_that_come_end_nothing(looked):
    looked.dog.timed(0.001)
    for step in range(40):
        looked.state = (step, step % 3)
        time.sleep(0.01)
    assert not looked.ended.is_set()


@pytest.mark.parametrize("state", [None, (0, 1)])
def test_compiling_and_the_first_steps_have_their_time(looked, state):
    looked.state = state
    if state is None:
        looked.dog.timed(0.001)
    assert not looked.ended.wait(0.5)


def test_a_process_that_was_held_up_is_not_ended(looked, monkeypatch):
    monkeypatch.setattr(watchdog, "_PAUSED_SECS", 0.0)  # every look comes late
    looked.dog.timed(0.001)
    assert not looked.ended.wait(0.5)


def test_a_process_that_plans_an_epoch_keeps_the_watchdogs_of_the_others_quiet(
    quick, monkeypatch
):
    """Process 2 plans while the step of process 1 waits for it; then it hangs."""
    monkeypatch.setattr(watchdog, "_BUSY_SECS", 0.02)
    trio, ended = Trio(), threading.Event()
    states: list[tuple[int, int] | None] = [(7, 1), (7, 1), None]
    dogs = [
        Watchdog(
            lambda n=number: states[n], lambda _: ended.set(), trio.channels[number]
        )
        for number in range(3)
    ]
    for dog in dogs:
        dog.timed(0.001)
    assert not ended.wait(0.6)
    states[2] = (7, 1)
    assert ended.wait(5)
    for closed in (*dogs, *trio.channels, *trio.sockets):
        closed.close()


def test_it_prints_all_stacks_and_ends_with_the_code_for_a_restart():
    program = (
        "import threading\n"
        "from bert_jax.train.monitoring import watchdog\n"
        "watchdog._LEAST_SECS = watchdog._LOOK_SECS = 0.01\n"
        "def hangs(): threading.Event().wait()\n"
        "threading.Thread(target=hangs, daemon=True).start()\n"
        "watchdog.Watchdog(lambda: (3, 1)).timed(0.001)\n"
        "threading.Event().wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 134
    stacks, sentence, end = done.stderr.rsplit("\n", 2)
    assert " in hangs\n" in stacks
    assert sentence.startswith("bert-jax: process 0 of 1: no step has come for ")
    assert end == ""


def test_the_other_processes_print_their_stacks_too():
    trio = Trio()
    trio.channels[1].tell("no step", 134, with_stacks=True)
    for number in (0, 2):
        heard = trio.channels[number].failure_of_another(5.0)
        assert heard is not None
        assert (heard.number, heard.exit_code, heard.with_stacks) == (1, 134, True)
    for channel in trio.channels:
        channel.close()
    for end in trio.sockets:
        end.close()
