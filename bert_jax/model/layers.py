"""The small parts every module is built from: dense, embedding, norm, dropout, GELU."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.model.random_bits import drop_threshold, kept_scale, random_bits


def _init(cfg: ModelConfig) -> jax.nn.initializers.Initializer:
    # Cut at two deviations without rescaling, as google-research/bert draws it.
    return jax.nn.initializers.truncated_normal(stddev=cfg.init_std)


class Dense(nnx.Module):
    """A matrix product over one or two trailing axes, plus a bias.

    `kernel` has the input axes first, then the output axes, such as [D, N, H].
    """

    def __init__(
        self,
        cfg: ModelConfig,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
    ):
        self.inputs, self.outputs = inputs, outputs
        self.dtype = jnp.dtype(cfg.compute_dtype)
        self.kernel = nnx.Param(_init(cfg)(rngs.params(), (*inputs, *outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *inputs] -> [..., *outputs] in the compute dtype."""
        leading = x.shape[: x.ndim - len(self.inputs)]
        # Two plain matrices: XLA on CPU takes 2.6 times as long over the gradient of
        # a kernel when the rows are spread over two axes.
        x = x.reshape(-1, math.prod(self.inputs)).astype(self.dtype)
        kernel = self.kernel[...].reshape(x.shape[-1], -1).astype(self.dtype)
        y = x @ kernel + self.bias[...].reshape(1, -1).astype(self.dtype)
        return y.reshape(*leading, *self.outputs)


def embedding(
    cfg: ModelConfig, rows: int, rngs: nnx.Rngs, *, padding: int = 0
) -> nnx.Embed:
    """A table of `rows` random vectors and `padding` zeros; no id may exceed it."""

    def init(*args: Any, **kwargs: Any) -> jax.Array:
        return _init(cfg)(*args, **kwargs).at[rows:].set(0.0)

    return nnx.Embed(
        rows + padding,
        cfg.hidden_size,
        embedding_init=init,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def layer_norm(cfg: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm in float32; the mean is taken off before squaring, for exactness."""
    return nnx.LayerNorm(
        cfg.hidden_size,
        epsilon=cfg.layer_norm_eps,
        use_fast_variance=False,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def gelu(cfg: ModelConfig, x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=cfg.gelu == "tanh")


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Zeroes units with probability `rate` and scales the others to keep the mean.

    Args:
        x: [B, ...], any float type.
        rate: in [0, 1), rounded to a multiple of 2**-32; 0 returns `x`.
        keys_B: typed keys, one a row; `None` returns `x`.

    Source: Srivastava et al. 2014; inverted scaling.
    """
    if keys_B is None or rate == 0.0:
        return x
    kept = random_bits(keys_B, x.shape) >= jnp.uint32(drop_threshold(rate))
    return jnp.where(kept, x * kept_scale(rate), 0.0).astype(x.dtype)


def pure_params(module: nnx.Module) -> dict:
    """The parameters of a module as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@functools.lru_cache
def graph_of(kind: Callable[..., nnx.Module], *args: object) -> nnx.GraphDef:
    """What is left of `kind(*args, rngs=...)` without its parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: kind(*args, rngs=nnx.Rngs(0))))
