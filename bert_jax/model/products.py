"""Matrix products and column sums, with faster ways on CPU.

XLA for CPU widens bfloat16 to float32 before a product, although current x86 cores
multiply bfloat16 at twice the rate of float32. oneDNN, which is linked into jaxlib,
multiplies bfloat16 directly, and XLA still runs oneDNN's custom call by its name; this
module uses that call. XLA for CPU also sums the columns of a wide array slowly; here a
product with ones does it. On other devices, products and sums are XLA's own.

Shape suffixes: R rows, K contracted, C columns. Leading axes, which both factors of a
product share, make it many products.
"""

import functools
import json
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config.compute import Products
from bert_jax.model.logical import is_split, platform

_TARGET = "__onednn$matmul"
# CPU flags of cores that have instructions for bfloat16 products.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# From this number of columns on, XLA's column sum on CPU is slow: with 16,384 columns it
# takes twice as long as a product with ones, with 30,592 forty times (benchmarks/LOG.md).
_WIDE = 8_192
# Of many products whose sides are no multiples of it, oneDNN gets some wrong if there are
# more threads than cores, as seen with jaxlib 0.10.2; of single products, none of 1,700.
_TILE = 16
# Twice the rounding of a bfloat16 result, which has 8 bits of precision.
_PROBE_TOLERANCE = 2.0**-7


def product(
    x_RK: jax.Array,
    kernel: jax.Array,
    *,
    transposed: bool = False,
    out_dtype: Any = None,
    products: Products = "auto",
) -> jax.Array:
    """`x @ kernel`, or `x @ kernel.T` if `transposed`. Sums are float32 inside.

    Args:
        x_RK: first factor [..., R, K], float32 or bfloat16.
        kernel: second factor, of the same type and leading axes: [..., K, C], or
            [..., C, K] if `transposed`.
        transposed: whether to multiply by the transposed kernel.
        out_dtype: type of the result. Default: the type of the factors.
        products: as `ComputeConfig.products`.

    Returns:
        [..., R, C]
    """
    out_dtype = jnp.dtype(out_dtype or x_RK.dtype)
    by_onednn = _is_onednns(kernel, products)
    if by_onednn or out_dtype != x_RK.dtype:
        return _own_gradients(by_onednn, transposed, out_dtype, x_RK, kernel)
    return _xla_product(transposed, out_dtype, x_RK, kernel)


def product_gradients(
    x_RK: jax.Array,
    kernel: jax.Array,
    d_out_RC: jax.Array,
    *,
    transposed: bool = False,
    products: Products = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The gradients of both factors of `product`, from that of its result."""
    by_onednn = _is_onednns(kernel, products)
    return _gradients(by_onednn, transposed, (x_RK, kernel), d_out_RC)


def _xla_product(
    transposed: bool, out_dtype: jnp.dtype, x_RK: jax.Array, kernel: jax.Array
) -> jax.Array:
    last = x_RK.ndim - 1
    leading = tuple(range(last - 1))
    contracted = (((last,), (last if transposed else last - 1,)), (leading, leading))
    return jax.lax.dot_general(
        x_RK, kernel, contracted, preferred_element_type=out_dtype
    )


def _is_onednns(kernel: jax.Array, products: Products) -> bool:
    """Whether oneDNN makes a product, and those of its gradient, in the current program."""
    many = kernel.shape[-2:] if kernel.ndim > 2 else ()
    is_safe = not any(size % _TILE for size in many)
    is_bfloat16 = kernel.dtype == jnp.bfloat16
    return products == "auto" and is_bfloat16 and is_safe and uses_onednn()


@jax.custom_vjp
def add_bias(x_RC: jax.Array, bias_C: jax.Array) -> jax.Array:
    """`x + bias` in the dtype of `x`; the gradient of the bias is summed in float32.

    JAX's own gradient would be a sum in the dtype of `x`, and GPUs that add bfloat16 would
    round it at each of thousands of rows.
    """
    return x_RC + bias_C[None].astype(x_RC.dtype)


def column_sums(x_RC: jax.Array) -> jax.Array:
    """Sums over the rows, float32 [C]. On CPU, wide arrays are multiplied with ones."""
    if platform() != "cpu" or x_RC.dtype != jnp.float32 or x_RC.shape[1] < _WIDE:
        return x_RC.sum(axis=0, dtype=jnp.float32)
    return (jnp.ones((1, x_RC.shape[0])) @ x_RC)[0]


def uses_onednn() -> bool:
    """Whether oneDNN computes the bfloat16 products of the program being traced.

    It does for a program on one CPU device that has instructions for bfloat16, if a trial
    product is right. With several devices XLA multiplies, because SPMD partitioning
    cannot split oneDNN's call.
    """
    return platform() == "cpu" and not is_split() and _onednn_works()


@functools.cache
def _onednn_works() -> bool:
    """Tries products with each combination of transposes and types that is used."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists() or _BFLOAT16_FLAGS.isdisjoint(info.read_text().split()):
        return False
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=shape) for shape in ((48, 64), (64, 80)))
    x, y = (np.asarray(a, jnp.bfloat16) for a in (x, y))
    expected = x.astype(np.float32) @ y.astype(np.float32)

    def trial(x_RK: jax.Array, y_KC: jax.Array) -> list[jax.Array]:
        return [
            _call(x_RK, y_KC, jnp.float32),
            _call(x_RK, y_KC.T, jnp.bfloat16, transpose_b=True),
            _call(x_RK.T, y_KC, jnp.bfloat16, transpose_a=True),
            _call(_twice(x_RK), _twice(y_KC.T), jnp.float32, transpose_b=True),
            _call(_twice(x_RK.T), _twice(y_KC), jnp.bfloat16, transpose_a=True),
        ]

    failure = "its products are wrong"
    try:
        # The trial must not become part of a program that is being traced.
        with jax.ensure_compile_time_eval():
            device = jax.local_devices(backend="cpu")[0]
            found = jax.jit(trial)(*jax.device_put((x, y), device))
        if all(
            np.allclose(
                np.asarray(z, np.float32), expected, rtol=_PROBE_TOLERANCE, atol=0.05
            )
            for z in found
        ):
            return True
    except (jax.errors.JaxRuntimeError, RuntimeError, TypeError) as error:
        failure = str(error)  # this jaxlib has no oneDNN, or calls it in another way
    logging.getLogger(__name__).warning(
        "oneDNN cannot multiply bfloat16 here (%s): XLA does, at half the speed.",
        failure,
    )
    return False


def _twice(x: jax.Array) -> jax.Array:
    return jnp.stack([x, x])


def _call(
    a: jax.Array,
    b: jax.Array,
    out_dtype: Any,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> jax.Array:
    """Products by oneDNN, [..., R, C]. A transposed factor is not copied."""
    rows, columns = (
        a.shape[-1 if transpose_a else -2],
        b.shape[-2 if transpose_b else -1],
    )
    shape = (*a.shape[:-2], rows, columns)
    settings = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    return jax.ffi.ffi_call(
        _TARGET,
        jax.ShapeDtypeStruct(shape, jnp.dtype(out_dtype)),
        # Version 2 of the call passes the settings as text, in which XLA expects them.
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": settings}),
        vmap_method="sequential",
    )(a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _own_gradients(
    by_onednn: bool,
    transposed: bool,
    out_dtype: jnp.dtype,
    x_RK: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """A product whose gradients are those of `_gradients`."""
    return _forward(by_onednn, transposed, out_dtype, x_RK, kernel)[0]


def _forward(
    by_onednn: bool,
    transposed: bool,
    out_dtype: jnp.dtype,
    x_RK: jax.Array,
    kernel: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    if by_onednn:
        out_RC = _call(x_RK, kernel, out_dtype, transpose_b=transposed)
    else:
        out_RC = _xla_product(transposed, out_dtype, x_RK, kernel)
    return out_RC, (x_RK, kernel)


def _backward(
    by_onednn: bool,
    transposed: bool,
    out_dtype: jnp.dtype,
    factors: tuple[jax.Array, jax.Array],
    d_out_RC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return _gradients(by_onednn, transposed, factors, d_out_RC)


_own_gradients.defvjp(_forward, _backward)


def _gradients(
    by_onednn: bool,
    transposed: bool,
    factors: tuple[jax.Array, jax.Array],
    d_out_RC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of both factors; that of the result is rounded to their type.

    Else both products would be float32's: on a GPU at half the speed.
    """
    x_RK, kernel = factors
    d_out_RC = d_out_RC.astype(x_RK.dtype)
    if by_onednn:
        d_x = _call(d_out_RC, kernel, x_RK.dtype, transpose_b=not transposed)
        of_kernel = (d_out_RC, x_RK) if transposed else (x_RK, d_out_RC)
        return d_x, _call(*of_kernel, kernel.dtype, transpose_a=True)
    of_x = functools.partial(_xla_product, transposed, x_RK.dtype, kernel=kernel)
    of_right = functools.partial(_xla_product, transposed, x_RK.dtype, x_RK)
    (d_x,) = jax.linear_transpose(of_x, x_RK)(d_out_RC)
    (d_kernel,) = jax.linear_transpose(of_right, kernel)(d_out_RC)
    return d_x, d_kernel


def _add_bias_forward(
    x_RC: jax.Array, bias_C: jax.Array
) -> tuple[jax.Array, tuple[()]]:
    return add_bias(x_RC, bias_C), ()


def _add_bias_backward(_: tuple[()], d_RC: jax.Array) -> tuple[jax.Array, jax.Array]:
    return d_RC, column_sums(d_RC)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
