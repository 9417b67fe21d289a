"""Joining a job: who is missing, who differs, and what a process alone notices."""

import concurrent.futures
import json
import pathlib
import socket
import threading
import types

import jax
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from bert_jax import cli
from bert_jax.commands import addresses, shared
from bert_jax.config import ClusterConfig, FinetuneConfig, TaskConfig
from bert_jax.runtime import agreement, channel, distributed, process
from bert_jax.runtime.differences import differences
from bert_jax.runtime.failure import Failure
from bert_jax.runtime.job import Job
from bert_jax.runtime.roll_call import bind_host, roll_call
from bert_jax.runtime.versions import versions
from bert_jax.train.runs import run_settings
from launch import local


def call(reports: list[tuple[int, int]], *, timeout_secs: float = 20.0) -> list:
    """What a roll call gives to or raises in each of some processes (number, count)."""
    port = local.free_port()

    def one(number: int, count: int) -> object:
        try:
            return roll_call(Job(f"127.0.0.1:{port}", count, number, ""), timeout_secs)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(reports)) as threads:
        return list(threads.map(one, *zip(*reports, strict=True)))


def test_all_come_and_are_connected_to_process_0():
    first, *others = call([(0, 3), (1, 3), (2, 3)])
    assert first.keys() == {1, 2}
    host = socket.gethostname()
    for number, own in enumerate(others, 1):
        assert own.keys() == {0}
        assert own[0].host == first[number].host == host
        own[0].connection.sendall(b"x")
        assert first[number].connection.recv(1) == b"x"
    for peer in (*first.values(), *(own[0] for own in others)):
        peer.connection.close()


def test_the_missing_are_named_to_all_that_came():
    for error in call([(0, 4), (2, 4)], timeout_secs=1.0):
        assert isinstance(error, TimeoutError)
        assert "2 of 4 processes did not come" in str(error)
        assert "within 1 s: 1, 3." in str(error)


def test_without_process_0_the_address_is_named():
    (error,) = call([(1, 2)], timeout_secs=0.5)
    assert isinstance(error, TimeoutError)
    assert "found no process 0 of 2 at 127.0.0.1:" in str(error)
    assert "refused" in str(error)


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([(0, 3), (2, 3), (2, 3)], "Two processes say that they are number 2"),
        ([(0, 2), (2, 3)], "one of 3 processes, process 0 that there are 2"),
    ],
)
def test_processes_that_count_differently(monkeypatch, reports, message):
    monkeypatch.setattr("bert_jax.runtime.roll_call._LATE_SECS", 0.5)
    for error in call(reports):
        assert isinstance(error, ValueError)
        assert message in str(error)


def test_a_stranger_at_the_door_is_passed_over():
    def stranger(port: int) -> None:
        report = {"process": 1, "count": 2, "host": "x", "token": "\ud800"}
        hostile = json.dumps(report).encode() + b"\n"
        for text in (
            *(b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"process": {}}\n', b""),
            hostile,
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sent:
                sent.sendall(text)

    job = Job(f"127.0.0.1:{local.free_port()}", 2, 0, "")
    with concurrent.futures.ThreadPoolExecutor() as threads:
        first = threads.submit(roll_call, job, 20.0)
        while True:
            try:
                stranger(int(job.coordinator.rpartition(":")[2]))
                break
            except ConnectionRefusedError:
                pass
        second = roll_call(job._replace(process_id=1), 20.0)
        assert first.result().keys() == {1}
        for peer in (first.result()[1], second[0]):
            peer.connection.close()


def test_a_process_with_another_token_is_turned_away_and_told(monkeypatch):
    monkeypatch.setattr(
        "bert_jax.runtime.roll_call._token", lambda: tokens_of[threading.get_ident()]
    )
    tokens_of: dict[int, str] = {}

    def one(number: int) -> object:
        tokens_of[threading.get_ident()] = "theirs" if number == 1 else "ours"
        job = Job(f"127.0.0.1:{port}", 3, number, "")
        try:
            return roll_call(job, 1.5)
        except Exception as error:
            return error

    port = local.free_port()
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        first, second, third = threads.map(one, range(3))
    assert isinstance(second, ValueError)
    assert "Process 0 has another BERT_JAX_JOB_TOKEN than this process" in str(second)
    for error in (first, third):
        assert isinstance(error, TimeoutError)
        assert "1 of 3 processes did not come" in str(error)
        assert "1 were turned away: their BERT_JAX_JOB_TOKEN is another" in str(error)


@pytest.mark.parametrize(
    ("coordinator", "addresses", "expected"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("localhost", ["127.0.0.1"], "127.0.0.1"),
        ("node1", ["127.0.0.1"], ""),  # others would not find it there
        ("node1", ["192.0.2.7"], ""),  # no address of this machine
        ("node1", ["192.0.2.7", "127.0.0.1"], ""),
        ("node1", [], ""),
    ],
)
def test_process_0_listens_at_the_address_of_the_job(
    monkeypatch, coordinator, addresses, expected
):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    if addresses is not None:
        found = [(socket.AF_INET, 1, 6, "", (x, 0)) for x in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    assert bind_host(coordinator) == expected


def test_the_variable_of_jax_says_where_process_0_listens(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "[::]:12")
    assert bind_host("127.0.0.1") == "::"


def test_a_port_that_is_taken_is_no_riddle():
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        job = Job(f"127.0.0.1:{holder.getsockname()[1]}", 2, 0, "")
        with pytest.raises(ValueError, match="cannot listen at port"):
            roll_call(job, 1.0)


@pytest.mark.parametrize("coordinator", ["node1", ":80", "node1:0", "node1:65536"])
@pytest.mark.parametrize("process", [0, 1])
def test_a_coordinator_without_a_port(coordinator, process):
    with pytest.raises(ValueError, match=f"'{coordinator}' is not HOST:PORT"):
        roll_call(Job(coordinator, 2, process, ""), 1.0)


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


@pytest.mark.parametrize(
    "error",
    [
        JaxRuntimeError("INTERNAL: Gloo AllReduce failed: closed by peer"),
        # As JAX 0.10 raises it within the save of a checkpoint.
        ValueError("UNKNOWN: Gloo AllGather failed: closed by peer"),
    ],
)
def test_a_process_that_is_gone_is_named_in_place_of_what_follows(monkeypatch, error):
    gone = Failure(2, "host2", "it was killed", 134)
    job = types.SimpleNamespace(failure_of_another=lambda secs: gone)
    left = []

    def leave(failure):
        left.append(failure)
        raise SystemExit(failure.exit_code)

    def fail():
        with distributed.taking_part(ClusterConfig(kind="none")):
            monkeypatch.setattr(channel, "current", lambda: job)
            raise error

    monkeypatch.setattr(distributed, "leave_because_of", leave)
    with pytest.raises(SystemExit):
        fail()
    assert left == [gone]


def test_fetch_brings_split_arrays_together():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    array = np.arange(16.0, dtype=np.float32)
    found = distributed.fetch({"a": jax.device_put(array, place), "b": array})
    np.testing.assert_array_equal(found["a"], array)
    assert type(found["a"]) is type(found["b"]) is np.ndarray


def test_hosts_compare_the_flags_of_their_command_first(monkeypatch):
    """Else one that plans its steps, or has another output, would leave the others waiting."""
    told = []
    monkeypatch.setattr(shared, "agree", lambda what, facts: told.append(str(facts)))
    commands = [
        ("evaluate", "run"),
        ("evaluate", "run", "--batches", "3"),
        ("pretrain", "--output", "run"),
        ("pretrain", "--output", "here/run"),
        ("pretrain", "--output", "run", "--minutes", "3"),
        # These may differ, or are compared with all settings.
        ("pretrain", "--output", "run", "--compile-cache", "cache", "--seed", "3"),
    ]
    for name, *flags in commands:
        with addresses.on_this_machine(cli.parse(name, flags)):
            pass
    assert len({*told[:-1]}) == len(told) - 1
    assert told[-1] == told[2]


def test_hosts_compare_all_settings_of_a_run_but_where_its_files_are(monkeypatch):
    told = []
    monkeypatch.setattr(run_settings, "agree", lambda what, facts: told.append(facts))
    for pooling, train in (("mean", "a.tsv"), ("mean", "b.tsv"), ("cls", "a.tsv")):
        task = TaskConfig(kind="embeddings", pooling=pooling, train=pathlib.Path(train))
        run_settings.agree_on_run(pathlib.Path("run"), FinetuneConfig(task=task))
    same, elsewhere, other = told
    assert same == elsewhere
    assert {name for name in same if same[name] != other[name]} == {"task.pooling"}


def test_the_launchers_start_every_command_that_joins_a_job():
    joining = [name for name, x in cli.COMMANDS.items() if hasattr(x, "cluster")]
    assert sorted(local.COMMANDS) == sorted(joining)
