"""Which kernel runs, what each refuses, and the gradients of XLA's."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import ComputeConfig, DropoutConfig, MeshConfig
from bert_jax.model import pretraining
from bert_jax.model.attention import attend, choose_kernel
from bert_jax.model.attention_blocks import blocked_attention
from bert_jax.model.attention_xla import banded_attention, xla_attention
from bert_jax.model.dropout import Dropout, drop_units
from bert_jax.model.logical import Placement, placed
from bert_jax.model.random_bits import row_keys
from bert_jax.model.rows import MASKED_SCORE, Rows, may_see
from bert_jax.train.mesh import make_mesh
from bert_jax.train.sharding import on_mesh

NO_DROPOUT = Dropout(None, DropoutConfig())


def rows_of_ids(shape):
    """Rows of one sequence each, without padding."""
    zeros = jnp.zeros(shape, jnp.int32)
    return Rows(zeros, zeros)


def choose(kernel, platform, **changes):
    usual = {"num_keys": 512, "head_size": 64, "dtype": jnp.dtype("bfloat16")}
    return choose_kernel(kernel, platform, **usual | {"drops": True} | changes)


@pytest.mark.parametrize(
    ("platform", "changes", "expected"),
    [
        ("cpu", {}, "xla"),
        ("gpu", {}, "xla"),
        ("gpu", {"drops": False}, "xla"),
        ("tpu", {}, "fused"),
        ("tpu", {"drops": False}, "fused"),
        ("tpu", {"head_size": 80}, "xla"),
        ("tpu", {"head_size": 80, "drops": False}, "splash"),
        ("tpu", {"num_keys": 2048}, "fused"),
        ("tpu", {"num_keys": 2049}, "xla"),
        ("tpu", {"num_keys": 2049, "drops": False}, "splash"),
        ("tpu", {"num_keys": 2048, "dtype": jnp.dtype("float32")}, "xla"),
        ("tpu", {"num_keys": 2048, "drops": False, "reach": 64}, "fused"),
        ("tpu", {"num_keys": 2049, "drops": False, "reach": 64}, "xla"),
        ("tpu", {"num_keys": 2049, "drops": False, "reach": 512}, "splash"),
    ],
)
def test_auto_takes_the_best_that_fits(platform, changes, expected):
    assert choose("auto", platform, **changes) == expected


@pytest.mark.parametrize(
    ("kernel", "platform", "changes", "message"),
    [
        ("fused", "cpu", {}, '"fused" is a kernel for TPU.* compiled for cpu'),
        ("splash", "gpu", {"drops": False}, "compiled for gpu"),
        ("triton", "cpu", {}, '"triton" is a kernel for NVIDIA GPUs.* for cpu'),
        ("triton", "tpu", {}, "compiled for tpu"),
        ("triton", "gpu", {"head_size": 80}, "heads are 80 wide; it takes widths of"),
        ("triton", "gpu", {"dtype": jnp.dtype("float16")}, "not float16"),
        ("splash", "tpu", {}, "cannot drop attention weights"),
        ("cudnn", "gpu", {}, '"cudnn" cannot drop attention weights'),
        ("cudnn", "cpu", {"drops": False}, '"cudnn" is a kernel for NVIDIA GPUs'),
        ("cudnn", "gpu", {"drops": False, "head_size": 136}, "136 wide; it takes"),
        (
            "cudnn",
            "gpu",
            {"drops": False, "dtype": jnp.dtype("float32")},
            "it takes bfloat16, not float32",
        ),
        ("fused", "tpu", {"head_size": 80}, "heads 80 wide do not fill 128 lanes"),
        ("fused", "tpu", {"num_keys": 4096}, "4096 tokens are too long; it takes 2048"),
    ],
)
def test_a_named_kernel_that_cannot_run_is_an_error(kernel, platform, changes, message):
    with pytest.raises(ValueError, match=message):
        choose(kernel, platform, **changes)


@pytest.mark.parametrize(("kernel", "platform"), [("splash", "tpu"), ("cudnn", "gpu")])
def test_these_run_while_no_weight_is_dropped(kernel, platform):
    assert choose(kernel, platform, drops=False) == kernel


def test_triton_takes_rows_of_any_length():
    assert choose("triton", "gpu", num_keys=1 << 20) == "triton"


def test_the_config_names_the_kernel(tiny, random_params, make_batch, make_masked):
    batch = make_batch()
    with pytest.raises(ValueError, match='"splash" is a kernel for TPU'):
        pretraining.apply(
            tiny,
            random_params(tiny),
            batch,
            make_masked(batch),
            compute=ComputeConfig(attention="splash"),
        )


def kernels_of(platform: str, mesh: jax.sharding.Mesh | None = None) -> str:
    """The program of `auto` for devices of that platform."""
    x = jnp.zeros((2, 16, 2, 64))
    whole = Placement(
        constrain=lambda x, axes: x,
        shard_mapped=lambda function, in_axes, out_axes: function,
        num_parts=lambda axis: 1,
        platform=platform,
        num_devices=1,
    )
    with placed(whole) if mesh is None else on_mesh(mesh):
        traced = jax.make_jaxpr(
            lambda x, rows: attend(x, x, x, rows, kernel="auto", dropout=NO_DROPOUT)
        )
        return str(traced(x, rows_of_ids((2, 16))))


def test_auto_asks_for_the_platform_of_the_mesh():
    assert "forward_kernel" in kernels_of("tpu")
    assert "pallas_call" not in kernels_of("gpu")
    assert "pallas_call" not in kernels_of("", make_mesh(MeshConfig(data=2, tensor=4)))


@pytest.mark.parametrize(
    ("kernel", "recompute", "kept"),
    [
        ("xla", False, True),
        ("xla", True, False),
        ("fused", False, False),
        ("triton", False, False),
    ],
)
def test_what_is_kept_for_the_backward_pass(kernel, recompute, kept):
    length, width = 256, 64
    rows = rows_of_ids((2, length))
    dropout = Dropout.of(DropoutConfig(attention=0.1), jax.random.key(0), 2)

    def backward(x):
        def attention(x):
            return attend(
                x,
                x,
                x,
                rows,
                kernel=kernel,
                dropout=dropout,
                recompute=recompute,
                interpret=kernel != "xla",
            )

        return jax.vjp(attention, x)[1]

    stored = jax.eval_shape(backward, jnp.zeros((2, length, 2, width)))
    scores = 2 * 2 * length * length
    assert any(x.size == scores for x in jax.tree.leaves(stored)) == kept


def plain_attention(q, k, v, ids, keys_B, dropout_rate, reach):
    """The formula of Vaswani et al. 2017, whose gradients JAX derives."""
    places = jnp.arange(q.shape[1])
    visible = may_see(
        ids[:, :, None], ids[:, None], reach, places[None, :, None], places[None, None]
    )
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / math.sqrt(q.shape[-1])
    probs = jax.nn.softmax(jnp.where(visible[:, None], scores, MASKED_SCORE))
    probs = drop_units(probs, dropout_rate, keys_B)
    return jnp.einsum("BNTS,BSNH->BTNH", probs, v)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.25, 0.75])
@pytest.mark.parametrize(
    ("attention", "reach"),
    [
        (xla_attention, None),
        (xla_attention, 3),
        (banded_attention, 4),
        (functools.partial(blocked_attention, size=16), None),
        (functools.partial(blocked_attention, size=16), 9),
        (functools.partial(blocked_attention, size=45), None),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 3e-2)]
)
def test_xlas_attention_and_its_gradients_are_those_of_the_formula(
    attention, reach, dropout_rate, dtype, tolerance
):
    rng = np.random.default_rng(0)
    shape = (2, 45, 3, 32)
    q, k, v, weights = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4))
    ids = jnp.asarray(np.sort(rng.integers(0, 3, shape[:2])), jnp.int32)
    keys_B = row_keys(jax.random.key(1), shape[0])

    @functools.partial(jax.jit, static_argnums=0)
    def run(function, arrays, weights):
        def mean(arrays):
            out = function(*arrays, ids, keys_B, dropout_rate, reach)
            return (out * weights).sum(), out

        return jax.grad(mean, has_aux=True)(arrays)

    whole = jax.tree.map(lambda x: x.astype(jnp.float32), ((q, k, v), weights))
    expected = run(plain_attention, *whole)
    found = run(attention, (q, k, v), weights)
    for mine, its in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert mine.dtype == dtype
        largest = np.abs(its).max()
        assert np.abs(np.asarray(mine, np.float32) - its).max() < tolerance * largest


def test_blocks_drop_the_weights_that_are_dropped_without_them():
    """So a run may go on with rows of another length, or on another device."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 40, 3, 8)), jnp.float32) for _ in "qkv")
    ids, keys_B = jnp.ones((2, 40), jnp.int32), row_keys(jax.random.key(1), 2)
    given = (q, k, v, ids, keys_B, 0.5)
    np.testing.assert_allclose(
        blocked_attention(*given, size=16), xla_attention(*given), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("length", "size"), [(2_047, None), (2_048, 256)])
def test_long_rows_keep_no_scores(length, size):
    x = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
    rows = Rows(*[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2)

    def backward(x, rows):
        return jax.vjp(lambda x: attend(x, x, x, rows, dropout=NO_DROPOUT), x)[1]

    stored = jax.tree.leaves(jax.eval_shape(backward, x, rows))
    jaxpr = str(jax.make_jaxpr(lambda x, r: backward(x, r)(x))(x, rows))
    whole = 2 * length * length
    assert any(x.size >= whole for x in stored) == (size is None)
    assert (f"[1,2,{size},{length}]" in jaxpr) == (size is not None)
    assert (f"[1,2,{length},{length}]" in jaxpr) == (size is None)


@pytest.mark.parametrize(
    "attention", [xla_attention, banded_attention, blocked_attention]
)
def test_weights_whose_random_bits_would_repeat_are_refused(attention):
    x = jax.ShapeDtypeStruct((1, 1 << 15, 4, 8), jnp.float32)
    ids = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)
    keys_B = row_keys(jax.random.key(0), 1)
    extra = {"size": 256} if attention is blocked_attention else {"reach": 64}
    with pytest.raises(ValueError, match="bits would repeat"):
        jax.eval_shape(
            lambda x, ids: attention(x, x, x, ids, keys_B, 0.1, **extra), x, ids
        )
