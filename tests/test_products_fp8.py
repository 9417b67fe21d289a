"""Products of 8-bit floats: their rounding, their gradients, and what stays out of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.model import pretraining
from bert_jax.model.products_fp8 import fp8_product, multiplies_fp8, rounded
from bert_jax.train.mesh import make_mesh
from bert_jax.train.placement import to_devices
from bert_jax.train.program import pretrain_program

E4M3, E5M2 = jnp.float8_e4m3fn, jnp.float8_e5m2
# Bits behind the point, and the exponent of the least number that has them all.
_FORMATS = {E4M3: (3, -6), E5M2: (2, -14)}
_BFLOAT16 = 2.0**-8


def normal(*shape, seed=0, scale=1.0):
    drawn = scale * np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(drawn, jnp.float32).astype(jnp.bfloat16)


def nearest(x, dtype):
    """float64 of the nearest 8-bit float under one scale a tensor, by arithmetic."""
    bits, least = _FORMATS[dtype]
    x = np.asarray(x, np.float64)
    scale = 2.0 ** (
        np.floor(np.log2(np.abs(x).max() / float(jnp.finfo(dtype).max))) + 1
    )
    _, exponents = np.frexp(x / scale)
    unit = 2.0 ** (np.maximum(exponents - 1, least) - bits)
    return np.round(x / scale / unit) * unit * scale


@pytest.mark.parametrize("dtype", _FORMATS)
@pytest.mark.parametrize("scale", [1.0, 3e4, 2e-30])
def test_factors_are_rounded_to_the_nearest_under_one_scale(dtype, scale):
    x = normal(64, 96, scale=scale)
    values, of_all = jax.jit(rounded, static_argnums=1)(x, dtype)
    assert values.dtype == dtype
    assert np.frexp(of_all)[0] == 0.5  # a power of two
    largest = np.abs(np.asarray(values, np.float64)).max()
    assert float(jnp.finfo(dtype).max) / 2 <= largest <= float(jnp.finfo(dtype).max)
    found = np.asarray(values, np.float64) * np.float64(of_all)
    np.testing.assert_array_equal(found, nearest(x, dtype))


@pytest.mark.parametrize("dtype", _FORMATS)
def test_nothing_and_what_is_no_number_survive_rounding(dtype):
    values, scale = rounded(jnp.zeros((2, 3), jnp.bfloat16), dtype)
    assert not np.asarray(values, np.float32).any()
    assert scale == 1.0
    values, scale = rounded(jnp.full((2, 3), 1e-37, jnp.bfloat16), dtype)
    assert np.isfinite(np.asarray(values, np.float32)).all()
    assert scale > 0.0
    for bad in (np.nan, np.inf):
        x = normal(2, 3).at[1, 1].set(bad)
        values, scale = rounded(x, dtype)
        assert not np.isfinite(np.asarray(values, np.float32)[1, 1])
        assert np.isfinite(scale)


def test_products_and_gradients_are_those_of_the_rounded_factors():
    x, kernel, d_out = normal(48, 32), normal(32, 80, seed=1), normal(48, 80, seed=2)
    y, vjp = jax.vjp(jax.jit(fp8_product), x, kernel)
    d_x, d_kernel = vjp(d_out)
    assert {z.dtype for z in (y, d_x, d_kernel)} == {jnp.dtype("bfloat16")}
    x8, kernel8 = nearest(x, E4M3), nearest(kernel, E4M3)
    d_out8 = nearest(d_out, E5M2)
    for found, expected in (
        (y, x8 @ kernel8),
        (d_x, d_out8 @ kernel8.T),
        (d_kernel, x8.T @ d_out8),
    ):
        np.testing.assert_allclose(
            np.asarray(found, np.float64),
            expected,
            rtol=_BFLOAT16,
            atol=1e-5 * np.abs(expected).max(),
        )


def test_the_backward_pass_keeps_8_bit_floats_alone():
    _, vjp = jax.vjp(fp8_product, normal(48, 32), normal(32, 80))
    kept = {x.dtype: x.size for x in jax.tree.leaves(vjp) if x.ndim}
    assert set(kept) == {jnp.dtype(E4M3)}


def test_the_products_of_the_layers_are_rounded_and_only_in_training(
    tiny, make_batch, make_masked
):
    compute = ComputeConfig(dtype="bfloat16", fp8=True)
    params = pretraining.init_params(tiny, jax.random.key(0))
    batch = make_batch()
    masked = make_masked(batch)

    def count(compute):
        run = functools.partial(pretraining.apply, tiny, compute=compute)
        return str(jax.make_jaxpr(run)(params, batch, masked)).count("name=fp8_product")

    # Query, key, value, output, and the two of the MLP.
    assert count(compute) == 6 * tiny.num_layers
    assert count(compute.inference) == 0


@pytest.mark.slow(ci=False)
def test_it_learns_as_bfloat16_does(tiny, vocabulary, make_batch):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batch = to_devices(mesh, make_batch(rows=8, pairs=1))

    def losses(fp8):
        cfg = PretrainConfig(
            model=dataclasses.replace(tiny, num_layers=2),
            compute=ComputeConfig(dtype="bfloat16", fp8=fp8),
            data=DataConfig(sequence_length=24),
            optimizer=OptimizerConfig(warmup_steps=100),
            batch_size=8,
            num_steps=10_000,
        )
        program = pretrain_program(cfg, mesh, vocabulary)
        state, found = program.make_state(), []
        for number in range(600):
            state, metrics = program.step(state, batch)
            if number % 150 == 149:
                found.append(float(metrics["loss"].value()))
        return found

    plain, ours = losses(fp8=False), losses(fp8=True)
    assert plain[-1] < 0.8 * plain[0]
    assert ours != plain
    assert ours == pytest.approx(plain, rel=0.02)


@pytest.mark.slow(ci=False)
def test_an_h100_multiplies_them(compiled_for_gpus):
    """Forward, and for the gradients of both factors, of six products in a loop."""
    assert compiled_for_gpus("fp8")["__cublas$lt$matmul$f8"] == 18


def test_it_is_for_bfloat16():
    with pytest.raises(ValueError, match='fp8 needs dtype="bfloat16"'):
        ComputeConfig(fp8=True)


def test_a_cpu_does_not_multiply_them():
    assert not multiplies_fp8(jax.devices()[0])
