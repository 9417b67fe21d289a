"""Attention for NVIDIA GPUs: interpreted, lowered for CUDA, and compiled for H100s."""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.model.attention_cudnn import cudnn_attention
from bert_jax.model.attention_gpu import _bounds, default_blocks, triton_attention
from bert_jax.model.attention_gpu_kernels import Blocks
from bert_jax.model.attention_xla import xla_attention
from bert_jax.train import sharding
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import pretrain_program, synthetic_vocabulary

SMALL = Blocks(query=16, key=16, back_key=16, back_query=16)


def ids_of(kind: str, length: int) -> np.ndarray:
    """int32 [2, T] of sequences."""
    if kind == "shuffled":  # no sequence lies together
        return np.random.default_rng(0).integers(0, 4, (2, length)).astype(np.int32)
    ids = np.repeat(np.arange(1, 6), length // 5)
    return np.stack([np.pad(ids, (0, length - ids.size)), np.ones(length)]).astype(
        np.int32
    )


def with_gradients(attend):
    @jax.jit
    def run(q, k, v, d_out, ids):
        out, vjp = jax.vjp(lambda *args: attend(*args, ids), q, k, v)
        return out, *vjp(d_out)

    return lambda *args: [np.asarray(x) for x in run(*args)]


def own(q, k, v, ids, words, *, rate, blocks=None, interpret=True):
    num_heads, length = q.shape[2], q.shape[1]
    return triton_attention(
        q,
        k,
        v,
        ids,
        ids,
        words,
        jnp.arange(num_heads, dtype=jnp.int32),
        jnp.arange(length, dtype=jnp.int32),
        dropout_rate=rate,
        blocks=blocks,
        interpret=interpret,
    )


@pytest.mark.parametrize("kind", ["packed", "shuffled"])
@pytest.mark.parametrize(
    "blocks",
    [
        SMALL,
        Blocks(query=32, key=16, back_key=64, back_query=16),
        Blocks(query=16, key=64, back_key=16, back_query=32),
    ],
    ids=["16", "wide", "high"],
)
def test_any_blocks_and_any_order_of_sequences_give_the_same(kind, blocks):
    length = 75  # no whole number of any block
    ids = ids_of(kind, length)
    arrays = np.random.default_rng(1).normal(size=(4, 2, length, 2, 16))
    arrays = list(arrays.astype(np.float32))
    keys = jax.random.split(jax.random.key(3), 2)
    words = jax.random.key_data(keys)
    found = with_gradients(
        lambda q, k, v, ids: own(q, k, v, ids, words, rate=0.25, blocks=blocks)
    )(*arrays, ids)
    expected = with_gradients(
        lambda q, k, v, ids: xla_attention(q, k, v, ids, keys, dropout_rate=0.25)
    )(*arrays, ids)
    for x, y in zip(found, expected, strict=True):
        # As in test_attention_kernels.py: float32 sums in another order.
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["packed", "shuffled"])
def test_bounds_leave_out_no_shared_sequence(kind):
    ids = ids_of(kind, 96)
    bounds = np.asarray(_bounds(jnp.asarray(ids), 16, jnp.asarray(ids), 32))
    for b, i in np.ndindex(2, 6):
        mine = set(ids[b, i * 16 : (i + 1) * 16])
        shared = [n for n in range(3) if mine & set(ids[b, n * 32 : (n + 1) * 32])]
        assert tuple(bounds[b, i]) == (shared[0], shared[-1] + 1)


def test_bounds_of_what_shares_nothing_are_empty():
    ids = jnp.zeros((1, 16), jnp.int32)
    assert _bounds(ids, 16, ids + 1, 16).tolist() == [[[0, 0]]]


def test_blocks_that_share_no_sequence_are_not_read():
    """NaN in the sequence beside would spread even through weights of zero."""
    length = 64
    ids = np.repeat([[1, 2]], length // 2, axis=1).astype(np.int32)
    other = (ids == 2)[..., None, None]
    arrays = np.random.default_rng(1).normal(size=(4, 1, length, 1, 16))
    arrays = [np.where(other, np.nan, x).astype(np.float32) for x in arrays]
    words = np.zeros((1, 2), np.uint32)
    run = with_gradients(
        lambda q, k, v, ids: own(q, k, v, ids, words, rate=0.1, blocks=SMALL)
    )
    for x in run(*arrays, ids):
        assert np.isfinite(x[:, : length // 2]).all()
        assert np.isnan(x[:, length // 2 :]).all()


@pytest.mark.parametrize("size", [8, 48])
def test_blocks_that_triton_cannot_multiply(size):
    with pytest.raises(ValueError, match=f"Blocks.back_key={size} .* power of two"):
        Blocks(back_key=size)


def test_short_rows_take_small_blocks():
    blocks = default_blocks(24, 64, jnp.dtype("bfloat16"))
    assert {blocks.query, blocks.key, blocks.back_key, blocks.back_query} == {32}
    assert default_blocks(3, 64, jnp.dtype("float32")).back_key == 16


# JAX 0.11 means to give the Triton backend up for Mosaic GPU some day.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The Pallas Triton backend is deprecated"
)


@pytest.fixture
def kernels(monkeypatch):
    """One entry for each kernel that is lowered for Triton."""
    from jax._src.pallas.triton import lowering

    made = []
    lower = lowering.lower_jaxpr_to_triton_module

    def recorded(*args, **kwargs):
        made.append(lower(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(lowering, "lower_jaxpr_to_triton_module", recorded)
    if importlib.util.find_spec("jax._src.pallas.triton.gpu_info"):
        # JAX 0.11 asks which GPU it is; 0.10 takes one like an H100 where there is none.
        from jax._src.pallas.triton import gpu_info

        h100 = gpu_info.get_gpu_info_from_version(gpu_info.GpuVersion.H100)
        monkeypatch.setattr(gpu_info, "get_gpu_info", lambda: h100)
    return made


def lower_attention(length, width, dtype, rate):
    """Forward and backward, as text."""
    x = jax.ShapeDtypeStruct((2, length, 2, width), dtype)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32)
    words = jax.ShapeDtypeStruct((2, 2), jnp.uint32)

    def run(q, k, v, d_out, ids, words):
        attend = functools.partial(
            own, ids=ids, words=words, rate=rate, interpret=False
        )
        out, vjp = jax.vjp(attend, q, k, v)
        return out, *vjp(d_out)

    traced = jax.jit(run).trace(x, x, x, x, ids, words)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


# Length of rows, width of heads, type, dropout.
CASES = [
    (512, 64, "bfloat16", 0.1),
    (128, 64, "bfloat16", 0.0),
    (512, 64, "float32", 0.1),
    (512, 128, "bfloat16", 0.1),
    (40, 16, "bfloat16", 0.1),
    (512, 128, "float32", 0.1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_lowers_for_cuda(case, kernels):
    text = lower_attention(*case)
    assert len(re.findall(r"custom_call @\S*triton", text)) == len(kernels) == 2


@pytest.mark.parametrize("reach", [None, 64])
def test_cudnn_lowers_for_cuda(reach, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    # JAX asks the library for its version, and there is none here.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
    x = jax.ShapeDtypeStruct((2, 255, 2, 64), jnp.bfloat16)  # cuDNN takes even lengths
    ids = jax.ShapeDtypeStruct((2, 255), jnp.int32)

    def run(q, k, v, d_out, ids):
        numbers = jnp.arange(255, dtype=jnp.int32)
        attend = functools.partial(
            cudnn_attention,
            q_ids_BT=ids,
            k_ids_BS=ids,
            query_numbers_T=numbers,
            reach=reach,
        )
        out, vjp = jax.vjp(attend, q, k, v)
        return out, *vjp(d_out)

    traced = jax.jit(run).trace(x, x, x, x, ids)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @(__cudnn\$fmha\w+)", text)
    assert calls == [
        "__cudnn$fmhaScaleBiasSoftmax",
        "__cudnn$fmhaScaleBiasSoftmaxBackward",
    ]


@pytest.mark.slow(ci=False)
def test_a_whole_pretraining_step_lowers_for_cuda(kernels, monkeypatch):
    placement = sharding.Placement
    monkeypatch.setattr(
        sharding, "Placement", lambda *args: placement(*args)._replace(platform="gpu")
    )
    cfg = PretrainConfig(
        model=ModelConfig(
            vocab_size=61,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            mlp_size=48,
            max_positions=32,
        ),
        compute=ComputeConfig(dtype="bfloat16", attention="triton"),
        data=DataConfig(sequence_length=32),
        optimizer=OptimizerConfig(warmup_steps=0),
        batch_size=8,
        num_steps=1,
    )
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    program = pretrain_program(cfg, mesh, synthetic_vocabulary(61))
    traced = program.step.trace(program.state, program.batch)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # A scanned layer is one piece of code.
    assert len(re.findall(r"custom_call @\S*triton", text)) == len(kernels) == 2


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize(
    ("kernel", "calls"),
    [
        ("triton", ["__gpu$xla.gpu.triton"] * 2),
        (
            "cudnn",
            ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"],
        ),
    ],
)
def test_it_compiles_for_four_h100(kernel, calls, compiled_for_gpus):
    """By XLA's own compiler, with the Triton that is in it."""
    assert compiled_for_gpus(kernel) == {
        "device": "NVIDIA H100 80GB HBM3",
        "kernels": calls,
        "scores": [],  # none is stored
        "collectives": [],
    }
