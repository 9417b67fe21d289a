"""Products of bfloat16 matrices whose factors are rounded to 8-bit floats.

A factor has one scale, found from its own largest magnitude: nothing is carried from
step to step, so that a step stays a function of state and batch. Scales are powers of
two. What a factor is rounded to is then a bfloat16 too, and a device without 8-bit
products gets the same result from bfloat16 ones, but for the order of sums; XLA for
NVIDIA GPUs sees the pattern, and has cuBLASLt multiply the 8-bit floats themselves.

Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", sections 3 and 4.
Shape suffixes: R rows, K contracted, C columns.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Weights and activations need the precision, gradients the range.
_FORWARD, _GRADIENT = jnp.float8_e4m3fn, jnp.float8_e5m2
# Of a scale: further down, devices take float32 for zero.
_LEAST_EXPONENT = -120


def multiplies_fp8(device: jax.Device) -> bool:
    """Whether it has instructions for it that XLA uses."""
    return device.platform == "gpu" and float(device.compute_capability) >= 8.9


def fp8_compiler_options(device: jax.Device) -> dict[str, bool | int]:
    """Of a program with these products on such a device."""
    if device.platform != "gpu":
        return {}
    # Triton's products, and those that XLA merges into one because they share a factor,
    # would be of the factors widened to bfloat16, at half the speed.
    return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}


class Rounded(NamedTuple):
    """A matrix as 8-bit floats, a quarter of its float32 bytes."""

    values: jax.Array
    scale: jax.Array
    """float32 [], a power of two: `values * scale` is what was rounded."""


def rounded(x: jax.Array, dtype: Any) -> Rounded:
    """`x` in an 8-bit type, scaled so that its largest magnitude is just in range.

    A NaN or an infinity becomes one that the product shows.

    Args:
        x: float32 or bfloat16, any shape; of a sharded one the scale is that of all.
        dtype: float8_e4m3fn or float8_e5m2.
    """
    largest = jnp.max(jnp.abs(x)).astype(jnp.float32)
    # 0.5 <= fraction < 1, so that nothing passes the largest finite number.
    _, exponent = jnp.frexp(largest / float(jnp.finfo(dtype).max))
    usual = (largest > 0.0) & jnp.isfinite(largest)
    exponent = jnp.where(usual, jnp.maximum(exponent, _LEAST_EXPONENT), 0)
    scale = jnp.ldexp(jnp.float32(1.0), exponent)
    return Rounded((x / scale.astype(x.dtype)).astype(dtype), scale)


@jax.custom_vjp
def fp8_product(x_RK: jax.Array, kernel_KC: jax.Array) -> jax.Array:
    """`x @ kernel` of bfloat16 factors, rounded to E4M3.

    Of the gradients' products the incoming factor is rounded to E5M2. The backward pass
    keeps the rounded factors only. Sums are float32 inside, but for what Hopper's FP8
    products leave out of those of the forward pass ("fast accumulation").

    Returns:
        bfloat16 [R, C]
    """
    return _forward(x_RK, kernel_KC)[0]


def _forward(
    x_RK: jax.Array, kernel_KC: jax.Array
) -> tuple[jax.Array, tuple[Rounded, Rounded]]:
    x, kernel = rounded(x_RK, _FORWARD), rounded(kernel_KC, _FORWARD)
    return _multiply(x, kernel, (1, 0)), (x, kernel)


def _backward(
    factors: tuple[Rounded, Rounded], d_out_RC: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    d_out = rounded(d_out_RC, _GRADIENT)
    # No fast accumulation, which XLA has cuBLASLt use by default.
    exact = jax.lax.Precision.HIGHEST
    return _multiply(d_out, kernel, (1, 1), exact), _multiply(x, d_out, (0, 0), exact)


fp8_product.defvjp(_forward, _backward)


def _multiply(
    a: Rounded,
    b: Rounded,
    contracted: tuple[int, int],
    precision: jax.lax.Precision = jax.lax.Precision.DEFAULT,
) -> jax.Array:
    """The product over one axis of each, bfloat16."""
    return jax.lax.dot_general(
        _widened(a),
        _widened(b),
        (((contracted[0],), (contracted[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.bfloat16,
    )


def _widened(x: Rounded) -> jax.Array:
    """Its exact value, bfloat16; XLA for GPUs knows a product of two such by it."""
    return x.values.astype(jnp.bfloat16) * x.scale.astype(jnp.bfloat16)
