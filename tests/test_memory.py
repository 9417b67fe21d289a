"""A run that the memory cannot hold is refused by the fields that ask for it."""

import dataclasses

import jax
import pytest

from bert_jax.config import DataConfig, MeshConfig, PretrainConfig
from bert_jax.train import memory
from bert_jax.train.memory import check_memory, device_memory, host_memory
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import pretrain_program


@pytest.fixture
def check(tiny, vocabulary, monkeypatch):
    """check(room, mesh, model, **more): what `check_memory` does with so many bytes."""

    def check(room, mesh=MeshConfig(data=8), model=tiny, batch_size=8, micro_batches=1):  # noqa: B008
        monkeypatch.setattr(memory, "device_memory", lambda device: room)
        cfg = PretrainConfig(
            model=model,
            mesh=mesh,
            data=DataConfig(sequence_length=16),
            batch_size=batch_size,
            num_steps=200,
        )
        placed = make_mesh(mesh)
        state = pretrain_program(cfg, placed, vocabulary).state
        check_memory(
            placed,
            model,
            state,
            batch_size=batch_size,
            length=16,
            micro_batches=micro_batches,
        )
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    return check


def test_parameters_and_moments_are_counted_where_they_lie(check, tiny):
    whole = check(None)
    assert check(whole + 10_000) == whole
    with pytest.raises(
        ValueError, match=r"^ModelConfig\.vocab_size=61, hidden_size=32"
    ):
        check(whole - 10_000)
    assert check(whole // 2, MeshConfig(fsdp=8, data=1)) == whole


def test_a_batch_is_counted(check):
    """A row of 16 tokens takes 16 * (3 * 4 + 32 * 2) bytes."""
    whole = check(None)
    room = whole + 1_000 * 16 * (12 + 64)
    check(room, batch_size=8_000)
    with pytest.raises(
        ValueError,
        match=r"^batch_size=1600000 with rows of 16 tokens needs more memory",
    ):
        check(room, batch_size=1_600_000)
    check(whole + 1_000 * 16 * (12 + 2), batch_size=8_000, micro_batches=64)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_layers": 2**31 - 1},
        {"hidden_size": 2**31 - 4},
        {"vocab_size": 2**31 - 200},
        {"mlp_size": 2**31 - 1},
        {"max_positions": 2**31 - 1},
    ],
    ids=str,
)
def test_the_largest_numbers_are_refused_without_being_tried(check, tiny, sizes):
    with pytest.raises(
        ValueError, match=f"{next(iter(sizes))}={next(iter(sizes.values()))}"
    ):
        check(2**38, model=dataclasses.replace(tiny, **sizes))


def test_the_memory_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "v2", tmp_path / "v1"))
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    machine = host_memory()
    assert machine is not None
    assert machine > 2**30
    assert device_memory(jax.devices()[0]) == machine // 8
    (tmp_path / "v2").write_text("max\n")
    assert host_memory() == machine
    (tmp_path / "v1").write_text("1048576\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nSwapTotal:  3 kB\n")
    assert host_memory() == 1_048_576 + 3 * 1024
