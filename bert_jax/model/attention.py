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

from bert_jax.config.compute import Attention as Kernel
from bert_jax.model import attention_fused, attention_gpu
from bert_jax.model.attention_fused import fused_attention
from bert_jax.model.attention_gpu import triton_attention
from bert_jax.model.attention_splash import splash_attention
from bert_jax.model.attention_xla import xla_attention
from bert_jax.model.dropout import Dropout
from bert_jax.model.logical import Axes, platform, shard_mapped
from bert_jax.model.rows import Rows

# Where a kernel of its own runs, and what an error calls that.
_PLATFORMS = {"splash": "tpu", "fused": "tpu", "triton": "gpu"}
_PLATFORM_NAMES = {"tpu": "TPU", "gpu": "NVIDIA GPUs"}

QUERY_AXES: Axes = ("batch", "length", "heads", "head_dim")
KEY_AXES: Axes = ("batch", "kv_length", "heads", "head_dim")
_IDS: tuple[Axes, Axes] = (("batch", "length"), ("batch", "kv_length"))


def attend(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    rows: Rows,
    *,
    kernel: Kernel = "xla",
    dropout: Dropout,
    recompute: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """Scaled dot-product attention within each sequence of a row.

    Args:
        q_BTNH, k_BSNH, v_BSNH: queries, keys and values in the compute dtype.
        rows: where the tokens stand; `rows.may_see` says who sees whom.
        kernel: as `ComputeConfig.attention`.
        dropout: of the attention weights, at its attention rate.
        recompute: keep no weights for the backward pass, which computes them again. The
            kernels for TPU and GPU always do.
        interpret: run a kernel for TPU or GPU as plain JAX operations, to test it
            elsewhere.

    Returns:
        [B, T, N, H] in the dtype of the values; softmax is float32 inside.

    Raises:
        ValueError: the kernel cannot do what is asked, or not on this platform.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    keys_B = dropout.keys_B
    rate = 0.0 if keys_B is None else dropout.rates.attention
    sequence_ids_BT = rows.sequence_ids
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
    axes: tuple[Axes, ...] = (QUERY_AXES, KEY_AXES, KEY_AXES, *_IDS)
    if chosen == "splash":
        splash = functools.partial(splash_attention, interpret=interpret)
        return shard_mapped(splash, axes, QUERY_AXES)(*arrays)
    num_rows, num_queries, num_heads = q_BTNH.shape[:3]
    words_B2 = jnp.zeros((num_rows, 2), jnp.uint32)
    if keys_B is not None:
        words_B2 = jax.random.key_data(keys_B)[:, :2]
    own = fused_attention if chosen == "fused" else triton_attention
    own = functools.partial(own, dropout_rate=rate, interpret=interpret)
    axes = (*axes, ("batch", None), ("heads",), ("length",))
    numbers = (jnp.arange(size, dtype=jnp.int32) for size in (num_heads, num_queries))
    return shard_mapped(own, axes, QUERY_AXES)(*arrays, words_B2, *numbers)


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
        kernel: as `ComputeConfig.attention`.
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
            f'ComputeConfig.attention="{kernel}" is a kernel for '
            f"{_PLATFORM_NAMES[_PLATFORMS[kernel]]}, but the model is compiled for "
            f'{platform}; use "auto" or "xla".'
        )
    if kernel == "splash" and drops:
        raise ValueError(
            'ComputeConfig.attention="splash" cannot drop attention weights; use "auto", '
            "or set DropoutConfig.attention=0."
        )
    if kernel != "splash" and refusal is not None:
        raise ValueError(
            f'ComputeConfig.attention="{kernel}" cannot run: {refusal}; use "auto".'
        )
    return kernel
