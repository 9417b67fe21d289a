"""Joining a job: who is missing, who differs, and what a process alone notices."""

import json
import socket
import threading

import jax
import numpy as np
import pytest

from bert_jax.config import ClusterConfig
from bert_jax.runtime import agreement, distributed, process
from bert_jax.runtime.differences import differences
from bert_jax.runtime.job import Job
from bert_jax.runtime.roll_call import roll_call
from bert_jax.runtime.versions import versions
from launch import local

FACTS = {"jax": "0.10.2", "python": "3.11.9"}


def call(reports: list[tuple[int, int, dict]], *, timeout_secs=20.0) -> list:
    """What a roll call raises in each of some processes (number, count, facts)."""
    port = local.free_port()
    raised: list = [None] * len(reports)

    def one(place: int, number: int, count: int, facts: dict) -> None:
        try:
            job = Job(f"127.0.0.1:{port}", count, number, "test")
            roll_call(job, facts, timeout_secs)
        except Exception as error:
            raised[place] = error

    threads = [
        threading.Thread(target=one, args=(place, *report))
        for place, report in enumerate(reports)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.fixture
def quick(monkeypatch):
    """No JAX follows in these tests, so nobody waits for it."""
    monkeypatch.setattr("bert_jax.runtime.roll_call._JAX_STARTS_SECS", 0.0)
    monkeypatch.setattr("bert_jax.runtime.roll_call._LATE_SECS", 1.0)


def test_all_come_and_are_alike(quick):
    assert call([(0, 3, FACTS), (1, 3, FACTS), (2, 3, FACTS)]) == [None] * 3


def test_the_missing_are_named_to_all_that_came(quick):
    raised = call([(0, 4, FACTS), (2, 4, FACTS)], timeout_secs=1.5)
    for error in raised:
        assert isinstance(error, TimeoutError)
        assert "2 of 4 processes did not come" in str(error)
        assert "within 2 s: 1, 3." in str(error)


def test_without_process_0_the_address_is_named():
    (error,) = call([(1, 2, FACTS)], timeout_secs=0.5)
    assert isinstance(error, TimeoutError)
    assert "found no process 0 of 2 at 127.0.0.1:" in str(error)
    assert "refused" in str(error)


def test_another_version_is_named_to_all(quick):
    other = FACTS | {"jax": "0.10.1"}
    raised = call([(0, 3, FACTS), (1, 3, other), (2, 3, FACTS)])
    host = socket.gethostname()
    for error in raised:
        assert isinstance(error, ValueError)
        assert f"jax is 0.10.1 on process 1 ({host}) and 0.10.2 elsewhere" in str(error)
        assert "python" not in str(error)


def test_two_processes_with_one_number(quick):
    raised = call([(0, 3, FACTS), (2, 3, FACTS), (2, 3, FACTS)])
    assert all("Two processes say that they are number 2" in str(e) for e in raised)


def test_another_number_of_processes(quick):
    raised = call([(0, 2, FACTS), (2, 3, FACTS)])
    assert all(
        "one of 3 processes, process 0 that there are 2" in str(e) for e in raised
    )


def test_a_stranger_at_the_door_is_passed_over(quick):
    def stranger(port: int) -> None:
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"process": {}}\n', b""):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sent:
                sent.sendall(text)

    port, raised = local.free_port(), []

    def first() -> None:
        try:
            roll_call(Job(f"127.0.0.1:{port}", 2, 0, "test"), FACTS, 20.0)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while True:
        try:
            stranger(port)
            break
        except ConnectionRefusedError:
            pass
    roll_call(Job(f"127.0.0.1:{port}", 2, 1, "test"), FACTS, 20.0)
    thread.join()
    assert not raised


def test_a_port_that_is_taken_is_no_riddle():
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        job = Job(f"127.0.0.1:{holder.getsockname()[1]}", 2, 0, "test")
        with pytest.raises(ValueError, match="cannot listen at port"):
            roll_call(job, FACTS, 1.0)


def test_a_coordinator_without_a_port():
    with pytest.raises(ValueError, match="'node1' is not HOST:PORT"):
        roll_call(Job("node1", 2, 0, "test"), FACTS, 1.0)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([{"a": "1"}, {"a": "1"}], []),
        ([{"a": "1"}, {"a": "2"}], ["a is 1 on p0 and 2 on p1"]),
        ([{"a": "1"}, {"a": "2"}, {"a": "2"}], ["a is 1 on p0 and 2 elsewhere"]),
        (
            [{"a": "1"}, {"a": "2"}, {"a": "3"}],
            ["a is 1 on p0 and 2 on p1 and 3 on p2"],
        ),
        (
            [{"a": "1", "b": "x"}, {"a": "1"}],
            ["b is x on p0 and unknown on p1"],
        ),
    ],
)
def test_differences_in_words(facts, expected):
    names = [f"p{n}" for n in range(len(facts))]
    assert differences(names, facts) == expected


def test_versions_name_the_source_too():
    found = versions()
    assert set(found) >= {"python", "jax", "jaxlib", "flax", "optax", "bert_jax"}
    assert len(found["source of bert_jax"]) == 12
    assert json.loads(json.dumps(found)) == found


def test_a_process_alone_agrees_at_once():
    distributed.initialize(ClusterConfig(kind="none"))
    assert process.this() == process.Process(0, 1)
    agreement.agree("the run", {"seed": 1})
    assert agreement.on_first_host("sum", lambda: 3) == 3
    assert agreement.any_host(True) is True
    assert agreement.any_host(False) is False
    with (
        pytest.raises(ValueError, match="mine"),
        distributed.taking_part(ClusterConfig(kind="none")),
    ):
        raise ValueError("mine")


def test_fetch_brings_split_arrays_together():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    array = np.arange(16.0, dtype=np.float32)
    found = distributed.fetch({"a": jax.device_put(array, place), "b": array})
    np.testing.assert_array_equal(found["a"], array)
    assert type(found["a"]) is type(found["b"]) is np.ndarray


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--processes", "2", "--", "prepare"], "call bert-jax itself"),
        (["--processes", "0", "--", "pretrain"], "must be greater than 0"),
        (["--", "pretrain", "--cluster.kind", "none"], "leave the flags of --cluster"),
    ],
)
def test_the_local_launcher_refuses(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        local.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
