"""The small parts of all modules: dense layer, embedding and activation."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.model.products import add_bias, product
from bert_jax.model.products_fp8 import fp8_product


def _init(cfg: ModelConfig, scale: float = 1.0) -> jax.nn.initializers.Initializer:
    # Cut at two deviations without rescaling, as google-research/bert draws it.
    return jax.nn.initializers.truncated_normal(stddev=cfg.init_std * scale)


class Keys:
    """Gives each tensor of a module a key of its own for its fresh numbers.

    They are the keys of `nnx.Rngs(key).params()`, which takes several times as long to
    trace, because it counts in an array.
    """

    def __init__(self, key: jax.Array):
        self._key, self._num_given = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self._num_given += 1
        return jax.random.fold_in(self._key, self._num_given - 1)


class Dense(nnx.Module):
    """A matrix product over one or two trailing axes, plus a bias if there is one.

    `kernel` has the input axes first, then the output axes, for example [D, N, H]. Its
    fresh numbers deviate by `scale` times `cfg.init_std`.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        compute: ComputeConfig,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        bias: bool = True,
        scale: float = 1.0,
        fp8: bool = False,
        keys: Keys,
    ):
        self.inputs, self.outputs, self.fp8 = inputs, outputs, fp8
        self.dtype, self.products = jnp.dtype(compute.dtype), compute.products
        self.kernel = nnx.Param(_init(cfg, scale)(keys.params(), (*inputs, *outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *inputs] -> [..., *outputs] in the compute dtype."""
        leading = x.shape[: x.ndim - len(self.inputs)]
        # Both factors become plain matrices: if the rows were spread over two axes, XLA
        # on CPU would take 2.6 times as long for the gradient of a kernel.
        x = x.reshape(-1, math.prod(self.inputs)).astype(self.dtype)
        kernel = self.kernel[...].reshape(x.shape[-1], -1).astype(self.dtype)
        if self.fp8:
            y = fp8_product(x, kernel)
        else:
            y = product(x, kernel, products=self.products)
        if self.bias is not None:
            y = add_bias(y, self.bias[...].reshape(-1))
        return y.reshape(*leading, *self.outputs)


def embedding(
    cfg: ModelConfig,
    rows: int,
    keys: Keys,
    *,
    padding: int = 0,
    width: int | None = None,
) -> nnx.Embed:
    """A table of `rows` random vectors and `padding` vectors of zeros after them.

    They are as wide as the embeddings, unless `width` says otherwise.
    """

    def init(*args: Any, **kwargs: Any) -> jax.Array:
        return _init(cfg)(*args, **kwargs).at[rows:].set(0.0)

    return nnx.Embed(
        rows + padding,
        width or cfg.token_width,
        embedding_init=init,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=keys,  # type: ignore[arg-type]  # it asks for `params()` alone
    )


def activation(cfg: ModelConfig, x: jax.Array) -> jax.Array:
    """The non-linear function of feed-forward layers and of the masked-LM head.

    It is computed in float32. The backward pass of GELU needs and keeps only `x`.

    Source: Hendrycks & Gimpel 2016, both forms of GELU; Elfwing et al. 2017 for SiLU.
    """
    if cfg.mlp == "swiglu":
        return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)
    return _gelu(cfg.gelu == "tanh", x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gelu(tanh: bool, x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x.astype(jnp.float32), approximate=tanh).astype(x.dtype)


def _gelu_forward(tanh: bool, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gelu(tanh, x), x


def _gelu_backward(tanh: bool, x: jax.Array, d_y: jax.Array) -> tuple[jax.Array]:
    # Without the barrier, the compiler would recognise the forward pass's curve as the
    # same value and keep it in memory.
    wide = jax.lax.optimization_barrier(x).astype(jnp.float32)
    if tanh:
        scale, cubic = math.sqrt(2.0 / math.pi), 0.044715
        curve = jnp.tanh(scale * (wide + cubic * wide**3))
        slope = 0.5 * (1.0 + curve) + 0.5 * wide * (1.0 - curve * curve) * (
            scale * (1.0 + 3.0 * cubic * wide * wide)
        )
    else:
        density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2.0 * math.pi)
        slope = 0.5 * (1.0 + jax.lax.erf(wide / math.sqrt(2.0))) + wide * density
    return ((d_y.astype(jnp.float32) * slope).astype(x.dtype),)


_gelu.defvjp(_gelu_forward, _gelu_backward)


def pure_params(module: nnx.Module) -> dict:
    """The parameters of a module as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@functools.lru_cache
def graph_of(kind: Callable[..., nnx.Module], *args: object) -> nnx.GraphDef:
    """The graph definition of `kind(*args, keys=...)`, without its parameters."""
    return nnx.graphdef(
        nnx.eval_shape(lambda: kind(*args, keys=Keys(jax.random.key(0))))
    )
