"""The table of parameters: axes, bytes of a device, moments."""

import jax
import pytest

from bert_jax.config import (
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.topology.sharding_table import sharding_table
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import pretrain_program, synthetic_vocabulary
from bert_jax.train.sharding import bytes_per_device


def table_and_state(tiny, mesh_cfg):
    cfg = PretrainConfig(
        model=tiny,
        data=DataConfig(sequence_length=24),
        mesh=mesh_cfg,
        optimizer=OptimizerConfig(warmup_steps=1),
        batch_size=16,
        num_steps=2,
    )
    mesh = make_mesh(mesh_cfg)
    state = pretrain_program(cfg, mesh, synthetic_vocabulary(tiny.vocab_size)).state
    return sharding_table(state), state


def test_every_parameter_has_a_row_and_the_bytes_add_up(tiny):
    table, state = table_and_state(tiny, MeshConfig(data=2, fsdp=2, tensor=2))
    assert len(table) == len(jax.tree.leaves(state.params))
    total = sum(row.bytes_per_device for row in table)
    assert total == bytes_per_device(state.params)
    moments = sum(row.moments_bytes_per_device for row in table)
    assert moments == 2 * total


@pytest.mark.parametrize(
    ("name", "shape", "logical", "mesh", "split"),
    [
        (
            "layers/attention/query/kernel",
            (3, 32, 4, 8),
            ("layers", "embed", "heads", "head_dim"),
            ((), ("fsdp",), ("tensor",), ()),
            4,
        ),
        (
            "embed/token/embedding",
            (128, 32),
            ("vocab_rows", None),
            (("tensor", "fsdp"), ()),
            4,
        ),
        ("embed/norm/scale", (32,), (None,), ((),), 1),
    ],
)
def test_rows_say_what_splits_a_parameter(tiny, name, shape, logical, mesh, split):
    table, _ = table_and_state(tiny, MeshConfig(data=2, fsdp=2, tensor=2))
    (row,) = (row for row in table if row.name == name)
    assert (row.shape, row.logical_axes, row.mesh_axes) == (shape, logical, mesh)
    whole = 4
    for size in shape:
        whole *= size
    assert row.bytes_per_device == whole // split


def test_moments_may_be_split_further(tiny):
    big = tiny.__class__(**{**vars(tiny), "vocab_size": 4_000})
    table, _ = table_and_state(big, MeshConfig(data=8, shard_update=True))
    (row,) = (row for row in table if row.name == "embed/token/embedding")
    assert row.mesh_axes == ((), ())
    assert row.moments_mesh_axes == (("data",), ())
    assert row.moments_bytes_per_device == 2 * row.bytes_per_device // 8
