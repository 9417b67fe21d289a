"""Layer norm and RMS norm, whose backward pass keeps little more than what they read."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.model.layers import Keys


class Norm(nnx.Module):
    """Layer norm, or RMS norm, over the last axis, in float32.

    Layer norm subtracts the mean before squaring, for exactness.

    Source: Ba et al. 2016; Zhang & Sennrich 2019 for RMS norm.
    """

    def __init__(self, cfg: ModelConfig, width: int | None = None, *, keys: Keys):
        self.is_centred, self.epsilon = cfg.norm == "layer", cfg.layer_norm_eps
        shape, init = (width or cfg.hidden_size,), jax.nn.initializers
        self.scale = nnx.Param(init.ones(keys.params(), shape, jnp.float32))
        has_bias = self.is_centred and cfg.norm_bias
        zeros = init.zeros(keys.params(), shape, jnp.float32) if has_bias else None
        self.bias = None if zeros is None else nnx.Param(zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D], any float type, -> float32 [..., D]."""
        bias = None if self.bias is None else self.bias[...]
        wide = x.astype(jnp.float32)
        return _normed(self.is_centred, self.epsilon, wide, self.scale[...], bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normed(
    is_centred: bool,
    epsilon: float,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
) -> jax.Array:
    return _forward(is_centred, epsilon, x, scale_D, bias_D)[0]


def _forward(
    is_centred: bool,
    epsilon: float,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    # JAX's own gradient would keep three arrays of the size of `x`.
    mean = x.mean(-1, keepdims=True) if is_centred else None
    away = x if mean is None else x - mean
    factor = jax.lax.rsqrt(jnp.square(away).mean(-1, keepdims=True) + epsilon)
    leading = (1,) * (x.ndim - 1)
    y = away * (factor * scale_D.reshape(*leading, -1))
    if bias_D is not None:
        y = y + bias_D.reshape(*leading, -1)
    return y, (x, mean, factor, scale_D, bias_D)


def _backward(
    is_centred: bool,
    epsilon: float,
    kept: tuple[Any, ...],
    d_y: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, mean, factor, scale_D, bias_D = kept
    normal = (x if mean is None else x - mean) * factor
    rows = tuple(range(x.ndim - 1))
    d_normal = d_y * scale_D.reshape((1,) * len(rows) + (-1,))
    d_x = d_normal - normal * (d_normal * normal).mean(-1, keepdims=True)
    if is_centred:
        d_x = d_x - d_normal.mean(-1, keepdims=True)
    d_bias = None if bias_D is None else d_y.sum(rows)
    return factor * d_x, (d_y * normal).sum(rows), d_bias


_normed.defvjp(_forward, _backward)
