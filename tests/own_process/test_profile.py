import socket
import time

import jax
import jax.numpy as jnp
import pytest

from bert_jax.config import LoopConfig
from bert_jax.runtime import process
from bert_jax.train.monitoring.profile import Profiler


@pytest.fixture(scope="module")
def add_one():
    """A step that a trace shows under this name."""

    def some_step(x):
        return x @ x + 1.0

    return jax.jit(some_step)


def train(profiler: Profiler, add_one, first: int, num_steps: int) -> list[int]:
    """Runs steps; returns how many traces there are after each."""
    state, found = jnp.zeros((8, 8)), []
    for number in range(first, num_steps):
        with profiler.step(number, state):
            state = add_one(state)
        found.append(len(traces(profiler)))
    profiler.close()
    return found


def traces(profiler: Profiler) -> list:
    return sorted(profiler._directory.rglob("*.xplane.pb"))


def step_numbers(trace) -> list[int]:
    """Numbers of the steps that a trace names, read as xprof reads them."""
    data = jax.profiler.ProfileData.from_file(str(trace))
    return sorted(
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    )


def test_the_steps_that_were_asked_for_are_traced(tmp_path, add_one, capsys):
    profiler = Profiler(tmp_path, LoopConfig(profile_at_step=3, profile_steps=2), 0)
    found = train(profiler, add_one, 0, 8)
    # Written before step 5 begins.
    assert found == [0, 0, 0, 0, 0, 1, 1, 1]
    (trace,) = traces(profiler)
    assert step_numbers(trace) == [3, 4]
    assert b"some_step" in trace.read_bytes()
    assert str(tmp_path / "profile") in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "first"), [(0, 0), (2, 7), (7, 7)])
def test_the_first_step_of_a_session_is_not_traced(tmp_path, add_one, asked, first):
    cfg = LoopConfig(profile_at_step=asked, profile_steps=1)
    profiler = Profiler(tmp_path, cfg, first)
    train(profiler, add_one, first, first + 4)
    (trace,) = traces(profiler)
    assert step_numbers(trace) == [first + 1]


def test_a_run_that_has_its_trace_takes_no_second_one(tmp_path, add_one):
    cfg = LoopConfig(profile_at_step=1, profile_steps=1)
    profiler = Profiler(tmp_path, cfg, 0)
    train(profiler, add_one, 0, 4)
    (trace,) = traces(profiler)
    trace.write_text("the first")  # two within a second have one name
    profiler = Profiler(tmp_path, cfg, 4)
    train(profiler, add_one, 4, 8)
    assert traces(profiler) == [trace]
    assert trace.read_text() == "the first"


def test_a_run_that_ends_early_still_writes_its_trace(tmp_path, add_one):
    profiler = Profiler(tmp_path, LoopConfig(profile_at_step=2, profile_steps=50), 0)
    train(profiler, add_one, 0, 4)
    (trace,) = traces(profiler)
    assert step_numbers(trace) == [2, 3]


def test_nothing_is_traced_unasked_or_by_other_hosts(tmp_path, add_one, monkeypatch):
    profiler = Profiler(tmp_path, LoopConfig(), 0)
    train(profiler, add_one, 0, 3)
    monkeypatch.setattr(process, "_this", process.Process(1, 2))
    profiler = Profiler(tmp_path, LoopConfig(profile_at_step=1, profile_steps=1), 0)
    train(profiler, add_one, 0, 3)
    assert not list(tmp_path.iterdir())


def test_xprof_can_ask_for_a_trace_at_any_time(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for _ in range(2):  # a second run of the same process has its own server
        profiler = Profiler(tmp_path, LoopConfig(profiler_port=port), 0)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as client:
                if client.connect_ex(("localhost", port)) == 0:
                    break
        else:
            pytest.fail(f"nobody listens at port {port}")
        profiler.close()
