"""Bidirectional self-attention that never crosses from one sequence to another.

One function with four kernels behind it. They agree to rounding, and drop the same
weights.

Shape suffixes: B rows, T tokens (S when they are attended to), D hidden, N heads,
H head width.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.model import attention_fused, attention_gpu
from bert_jax.model.attention_fused import fused_attention
from bert_jax.model.attention_gpu import triton_attention
from bert_jax.model.attention_splash import splash_attention
from bert_jax.model.attention_xla import xla_attention
from bert_jax.model.layers import Dense
from bert_jax.model.logical import Axes, constrain, platform, shard_mapped

Kernel = Literal["auto", "xla", "splash", "fused", "triton"]

# Where a kernel of its own runs, and what an error calls that.
_PLATFORMS = {"splash": "tpu", "fused": "tpu", "triton": "gpu"}
_PLATFORM_NAMES = {"tpu": "TPU", "gpu": "NVIDIA GPUs"}

_QUERIES: Axes = ("batch", "length", "heads", "head_dim")
_KEYS: Axes = ("batch", "kv_length", "heads", "head_dim")
_IDS: tuple[Axes, Axes] = (("batch", "length"), ("batch", "kv_length"))


def attend(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    sequence_ids_BT: jax.Array,
    *,
    kernel: Kernel = "xla",
    dropout_rate: float = 0.0,
    keys_B: jax.Array | None = None,
    recompute: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """Scaled dot-product attention within each sequence of a row.

    Args:
        q_BTNH, k_BSNH, v_BSNH: queries, keys and values in the compute dtype.
        sequence_ids_BT: int32; a token sees the tokens that carry its own id.
        kernel: as `ModelConfig.attention`.
        dropout_rate: of the attention weights.
        keys_B: typed keys, one a row; `None` turns dropout off.
        recompute: keeps no weights for the backward pass, which makes them again; the
            kernels for TPU and GPU always do.
        interpret: runs a kernel for TPU or GPU as plain JAX operations, to test it
            elsewhere.

    Returns:
        [B, T, N, H] in the dtype of the values; softmax is float32 inside.

    Raises:
        ValueError: the kernel cannot do what is asked, or not on this platform.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    rate = 0.0 if keys_B is None else dropout_rate
    chosen = choose_kernel(
        kernel,
        platform_of(kernel, interpret),
        num_keys=k_BSNH.shape[1],
        head_size=k_BSNH.shape[3],
        dtype=k_BSNH.dtype,
        drops=rate > 0.0,
    )
    if chosen == "xla":
        run: Callable = functools.partial(xla_attention, dropout_rate=rate)
        run = jax.checkpoint(run) if recompute else run
        return run(q_BTNH, k_BSNH, v_BSNH, sequence_ids_BT, keys_B)
    arrays = (q_BTNH, k_BSNH, v_BSNH, sequence_ids_BT, sequence_ids_BT)
    axes: tuple[Axes, ...] = (_QUERIES, _KEYS, _KEYS, *_IDS)
    if chosen == "splash":
        splash = functools.partial(splash_attention, interpret=interpret)
        return shard_mapped(splash, axes, _QUERIES)(*arrays)
    num_rows, num_queries, num_heads = q_BTNH.shape[:3]
    words_B2 = jnp.zeros((num_rows, 2), jnp.uint32)
    if keys_B is not None:
        words_B2 = jax.random.key_data(keys_B)[:, :2]
    own = fused_attention if chosen == "fused" else triton_attention
    own = functools.partial(own, dropout_rate=rate, interpret=interpret)
    axes = (*axes, ("batch", None), ("heads",), ("length",))
    numbers = (jnp.arange(size, dtype=jnp.int32) for size in (num_heads, num_queries))
    return shard_mapped(own, axes, _QUERIES)(*arrays, words_B2, *numbers)


def platform_of(kernel: Kernel, interpret: bool) -> str:
    """The platform to choose a kernel for: where it is interpreted, the kernel's own."""
    return _PLATFORMS.get(kernel, "tpu") if interpret else platform()


def choose_kernel(
    kernel: Kernel,
    platform: str,
    *,
    num_keys: int,
    head_size: int,
    dtype: jnp.dtype,
    drops: bool,
) -> Literal["xla", "splash", "fused", "triton"]:
    """The kernel that runs where `kernel` is asked for.

    On GPU, "auto" is XLA's until a GPU has measured "triton", which has only been run
    as plain operations, lowered and compiled so far.

    Args:
        kernel: as `ModelConfig.attention`.
        platform: "cpu", "gpu" or "tpu".
        num_keys: tokens of a row.
        head_size: width of a head.
        dtype: of the keys.
        drops: whether weights are dropped.

    Raises:
        ValueError: a kernel that is asked for by name cannot do that.
    """
    if kernel == "xla" or (kernel == "auto" and platform != "tpu"):
        return "xla"
    if kernel == "triton":
        refusal = attention_gpu.refusal(head_size, dtype)
    else:
        refusal = attention_fused.refusal(num_keys, head_size, dtype)
    if kernel == "auto":
        if refusal is None:
            return "fused"
        return "xla" if drops else "splash"
    if platform != _PLATFORMS[kernel]:
        raise ValueError(
            f'ModelConfig.attention="{kernel}" is a kernel for '
            f"{_PLATFORM_NAMES[_PLATFORMS[kernel]]}, but the model is compiled for "
            f'{platform}; use "auto" or "xla".'
        )
    if kernel == "splash" and drops:
        raise ValueError(
            'ModelConfig.attention="splash" cannot drop attention weights; use "auto", '
            "or set attention_dropout_rate=0 (and dropout_rate to what you want)."
        )
    if kernel != "splash" and refusal is not None:
        raise ValueError(
            f'ModelConfig.attention="{kernel}" cannot run: {refusal}; use "auto".'
        )
    return kernel


class SelfAttention(nnx.Module):
    """Multi-head self-attention and its output projection; no residual, no norm."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        heads = (cfg.num_heads, cfg.head_size)
        width = (cfg.hidden_size,)
        self.query = Dense(cfg, width, heads, fp8=cfg.fp8, rngs=rngs)
        self.key = Dense(cfg, width, heads, fp8=cfg.fp8, rngs=rngs)
        self.value = Dense(cfg, width, heads, fp8=cfg.fp8, rngs=rngs)
        self.out = Dense(cfg, heads, width, fp8=cfg.fp8, rngs=rngs)
        self.kernel, self.recompute = cfg.attention, cfg.remat == "attention"
        self.dropout_rate = cfg.attention_dropout_rate

    def __call__(
        self, x_BTD: jax.Array, sequence_ids_BT: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        q_BTNH, k_BSNH, v_BSNH = (
            constrain(project(x_BTD), *axes)
            for project, axes in (
                (self.query, _QUERIES),
                (self.key, _KEYS),
                (self.value, _KEYS),
            )
        )
        y_BTNH = attend(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            sequence_ids_BT,
            kernel=self.kernel,
            dropout_rate=self.dropout_rate,
            keys_B=keys_B,
            recompute=self.recompute,
        )
        return self.out(y_BTNH)
