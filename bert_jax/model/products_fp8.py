"""Products of bfloat16 matrices whose factors are rounded to 8-bit floats.

Each factor has one scale, computed from its own largest magnitude. Nothing is carried
from step to step, so a step stays a function of state and batch. Scales are powers of
two, so every rounded value is also a bfloat16. Therefore a device without 8-bit products
gets the same result from bfloat16 products, except for the order of sums. XLA for NVIDIA
GPUs recognises the pattern and lets cuBLASLt multiply the 8-bit floats themselves.

Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", sections 3 and 4.
Shape suffixes: R rows, K contracted, C columns.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Weights and activations need precision (E4M3); gradients need range (E5M2).
_FORWARD, _GRADIENT = jnp.float8_e4m3fn, jnp.float8_e5m2
# Smallest exponent of a scale: below it, devices treat a float32 as zero.
_LEAST_EXPONENT = -120


def multiplies_fp8(device: jax.Device) -> bool:
    """Whether the device has instructions for 8-bit products, and XLA uses them."""
    return device.platform == "gpu" and float(device.compute_capability) >= 8.9


def fp8_compiler_options(device: jax.Device) -> dict[str, bool | int]:
    """XLA's options for a program with such products on this device."""
    if device.platform != "gpu":
        return {}
    # Without these options, Triton would multiply the factors widened to bfloat16, and so
    # would a product that XLA merges from several with a common factor: at half the speed.
    return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}


class Rounded(NamedTuple):
    """A matrix as 8-bit floats, which take a quarter of its float32 bytes."""

    values: jax.Array
    scale: jax.Array
    """float32 [], a power of two: `values * scale` is the rounded matrix."""


def rounded(x: jax.Array, dtype: Any) -> Rounded:
    """`x` in an 8-bit type, scaled so that its largest magnitude is just in range.

    A NaN or an infinity in `x` gives a NaN or an infinity in the product.

    Args:
        x: float32 or bfloat16, any shape. All parts of a sharded array share one scale.
        dtype: float8_e4m3fn or float8_e5m2.
    """
    largest = jnp.max(jnp.abs(x)).astype(jnp.float32)
    # 0.5 <= fraction < 1, so no scaled value exceeds the largest finite number.
    _, exponent = jnp.frexp(largest / float(jnp.finfo(dtype).max))
    usual = (largest > 0.0) & jnp.isfinite(largest)
    exponent = jnp.where(usual, jnp.maximum(exponent, _LEAST_EXPONENT), 0)
    scale = jnp.ldexp(jnp.float32(1.0), exponent)
    return Rounded((x / scale.astype(x.dtype)).astype(dtype), scale)


@jax.custom_vjp
def fp8_product(x_RK: jax.Array, kernel_KC: jax.Array) -> jax.Array:
    """`x @ kernel` of bfloat16 factors, rounded to E4M3.

    In the products of the backward pass, the incoming gradient is rounded to E5M2; the
    other factor is the rounded one of the forward pass, and only that is kept. Sums are
    float32 inside. An exception is the forward pass on Hopper GPUs, whose FP8 products
    sum with lower precision ("fast accumulation").

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
    # HIGHEST turns off fast accumulation, which XLA uses by default.
    exact = jax.lax.Precision.HIGHEST
    return _multiply(d_out, kernel, (1, 1), exact), _multiply(x, d_out, (0, 0), exact)


fp8_product.defvjp(_forward, _backward)


def _multiply(
    a: Rounded,
    b: Rounded,
    contracted: tuple[int, int],
    precision: jax.lax.Precision = jax.lax.Precision.DEFAULT,
) -> jax.Array:
    """The product over one axis of each factor, bfloat16."""
    return jax.lax.dot_general(
        _widened(a),
        _widened(b),
        (((contracted[0],), (contracted[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.bfloat16,
    )


def _widened(x: Rounded) -> jax.Array:
    """The exact value as bfloat16. XLA for GPUs recognises FP8 products by this form."""
    return x.values.astype(jnp.bfloat16) * x.scale.astype(jnp.bfloat16)
