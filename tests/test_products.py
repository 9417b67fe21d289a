"""Products and column sums on a CPU are XLA's, however they are made."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import ComputeConfig, MeshConfig
from bert_jax.model import pretraining, products
from bert_jax.model.attention_xla import xla_attention
from bert_jax.model.layers import _gelu
from bert_jax.model.products import add_bias, column_sums, product

# A bfloat16 result has 8 bits; what it sums is float32, in another order.
_BFLOAT16 = 2.0**-8
_FLOAT32 = 1e-5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def onednn():
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    if {"avx512_bf16", "amx_bf16"}.isdisjoint(flags):
        pytest.skip("this CPU has no instructions for bfloat16")
    # Not skipped: on such a CPU the pinned versions of jaxlib have it.
    assert products.uses_onednn()


def _factors(rng, dtype=jnp.bfloat16, leading=()):
    shapes = ((48, 40), (40, 56), (48, 56))
    if leading:
        shapes = ((40, 32), (32, 48), (40, 48))
    x, kernel, d_out = (rng.normal(size=(*leading, *shape)) for shape in shapes)
    return tuple(jnp.asarray(a, jnp.float32).astype(dtype) for a in (x, kernel, d_out))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("leading", [(), (2, 3)], ids=["one", "many"])
def test_onednn_products_and_gradients(onednn, rng, transposed, out_dtype, leading):
    x, kernel, d_out = _factors(rng, leading=leading)
    kernel = kernel.mT if transposed else kernel

    def run(x, kernel):
        return product(x, kernel, transposed=transposed, out_dtype=out_dtype)

    traced = str(jax.make_jaxpr(run)(x, kernel))
    assert "ffi_call" in traced
    y, vjp = jax.vjp(jax.jit(run), x, kernel)
    d_x, d_kernel = vjp(d_out.astype(out_dtype))
    assert (y.dtype, d_x.dtype, d_kernel.dtype) == (out_dtype, "bfloat16", "bfloat16")

    wide, wide_kernel, wide_d = (np.asarray(a, np.float64) for a in (x, kernel, d_out))
    swapped = [np.swapaxes(a, -1, -2) for a in (wide, wide_kernel)]
    plain = swapped[1] if transposed else wide_kernel
    of_kernel = swapped[0] @ wide_d
    for found, expected, rounding in (
        (y, wide @ plain, _FLOAT32 if out_dtype == "float32" else _BFLOAT16),
        (d_x, wide_d @ np.swapaxes(plain, -1, -2), _BFLOAT16),
        (
            d_kernel,
            np.swapaxes(of_kernel, -1, -2) if transposed else of_kernel,
            _BFLOAT16,
        ),
    ):
        np.testing.assert_allclose(
            np.asarray(found, np.float64),
            expected,
            rtol=rounding,
            atol=_FLOAT32 * np.abs(expected).max(),
        )


@pytest.mark.parametrize(("dtype", "asked"), [("float32", "auto"), ("bfloat16", "xla")])
@pytest.mark.parametrize("leading", [(), (2, 3)], ids=["one", "many"])
def test_other_products_are_xlas(rng, dtype, asked, leading):
    x, kernel, _ = _factors(rng, dtype, leading)

    def run(x, kernel):
        return product(x, kernel, products=asked)

    traced = str(jax.make_jaxpr(run)(x, kernel))
    assert "ffi_call" not in traced
    assert "dot_general" in traced
    np.testing.assert_allclose(
        np.asarray(run(x, kernel), np.float32),
        np.asarray(x, np.float64) @ np.asarray(kernel, np.float64),
        rtol=_BFLOAT16,
        atol=1e-3,
    )


@pytest.mark.parametrize("sizes", [(40, 48), (32, 56)])
def test_many_products_of_odd_sizes_are_xlas(onednn, sizes):
    """oneDNN gets some of them wrong."""
    depth, columns = sizes
    x, kernel = jnp.zeros((2, 16, depth)), jnp.zeros((2, depth, columns))
    factors = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert "ffi_call" not in str(jax.make_jaxpr(product)(*factors))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_by_onednn_is_xlas(onednn, rng, dropout):
    """Scores and mixtures of 3 rows, 2 heads, and their gradients."""
    q, k, v, d_out = (
        jnp.asarray(rng.normal(size=(3, 48, 2, 16)), jnp.bfloat16) for _ in range(4)
    )
    ids = jnp.asarray(rng.integers(0, 3, (3, 48)).astype(np.int32))
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 3)

    def run(products):
        def attention(q, k, v):
            return xla_attention(q, k, v, ids, keys, dropout, products=products)

        out, vjp = jax.vjp(jax.jit(attention), q, k, v)
        return [np.asarray(x, np.float32) for x in (out, *vjp(d_out))]

    assert "ffi_call" in str(
        jax.make_jaxpr(lambda q: xla_attention(q, k, v, ids, keys, dropout))(q)
    )
    for found, expected in zip(run("auto"), run("xla"), strict=True):
        difference = np.linalg.norm(found - expected)
        assert difference <= 0.01 * np.linalg.norm(expected)


def test_several_devices_have_xlas(rng):
    from bert_jax.train.mesh import make_mesh
    from bert_jax.train.sharding import on_mesh

    with on_mesh(make_mesh(MeshConfig(data=8), jax.devices())):
        assert not products.uses_onednn()


def test_training_loss_is_xlas(onednn, tiny, random_params, make_batch, make_masked):
    """A whole model, forward and backward: the loss and the largest gradients."""
    from bert_jax.train.losses import pretrain_loss

    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)

    def run(products):
        def loss(params):
            compute = ComputeConfig(dtype="bfloat16", products=products)
            outputs = pretraining.apply(tiny, params, batch, masked, compute=compute)
            return pretrain_loss(outputs, batch, masked)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    (ours, grads), (theirs, expected) = run("auto"), run("xla")
    again, repeated = run("auto")
    assert ours == again
    assert jax.tree.all(jax.tree.map(jnp.array_equal, grads, repeated))
    # Some forty roundings to eight bits lie between parameters and loss.
    np.testing.assert_allclose(ours, theirs, rtol=5e-3)
    norm, difference = (
        np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree)))
        for tree in (expected, jax.tree.map(jnp.subtract, grads, expected))
    )
    assert difference < 0.03 * norm


@pytest.mark.parametrize("columns", [53, 9_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_and_its_gradient(rng, columns, dtype):
    x, d_out = (
        jnp.asarray(rng.normal(size=(37, columns)), jnp.float32).astype(dtype)
        for _ in range(2)
    )
    bias = jnp.asarray(rng.normal(size=columns), jnp.float32)
    y, vjp = jax.vjp(add_bias, x, bias)
    np.testing.assert_array_equal(y, x + bias[None].astype(dtype))
    d_x, d_bias = vjp(d_out)
    np.testing.assert_array_equal(d_x, d_out)
    assert d_bias.dtype == jnp.float32
    expected = np.asarray(d_out, np.float64).sum(axis=0)
    np.testing.assert_allclose(d_bias, expected, atol=_FLOAT32 * 37)
    as_product = "dot_general" in str(jax.make_jaxpr(column_sums)(d_out))
    assert as_product == (columns > 8_192 and dtype == "float32")


@pytest.mark.parametrize("tanh", [True, False])
def test_gelu_gradient(tanh):
    """Against JAX's own derivative of JAX's own GELU."""
    x = jnp.linspace(-6.0, 6.0, 4_001)
    own, plain = (
        jax.grad(lambda x, f=f: f(x).sum())(x)
        for f in (
            lambda x: _gelu(tanh, x),
            lambda x: jax.nn.gelu(x, approximate=tanh),
        )
    )
    np.testing.assert_allclose(own, plain, atol=1e-6)


def test_a_jaxlib_without_onednn_is_said(onednn, monkeypatch, caplog):
    monkeypatch.setattr(products, "_TARGET", "__no_such_product")
    products._onednn_works.cache_clear()
    try:
        assert not products.uses_onednn()
        assert "XLA does, at half the speed" in caplog.text
    finally:
        products._onednn_works.cache_clear()
