"""Bidirectional self-attention, in which a token sees its own sequence only.

`attend` is one function with five kernels behind it. The kernels agree up to rounding,
and those that have dropout drop the same weights. XLA's goes through long rows in blocks.

Shape suffixes: B rows, T tokens (S when they are attended to), D hidden, N heads,
H head width.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from bert_jax.config.compute import Attention as Kernel
from bert_jax.config.compute import Products
from bert_jax.model import attention_cudnn, attention_fused, attention_gpu
from bert_jax.model.attention_blocks import block_size, blocked_attention
from bert_jax.model.attention_cudnn import cudnn_attention
from bert_jax.model.attention_fused import fused_attention
from bert_jax.model.attention_gpu import triton_attention
from bert_jax.model.attention_splash import splash_attention
from bert_jax.model.attention_xla import banded_attention, is_banded, xla_attention
from bert_jax.model.dropout import Dropout
from bert_jax.model.logical import Axes, platform, shard_mapped
from bert_jax.model.rows import Rows

# The platform that a kernel needs, and its name in error messages.
_PLATFORMS = {"splash": "tpu", "fused": "tpu", "triton": "gpu", "cudnn": "gpu"}
_PLATFORM_NAMES = {"tpu": "TPU", "gpu": "NVIDIA GPUs"}
_WITHOUT_DROPOUT = ("splash", "cudnn")

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
    products: Products = "auto",
    interpret: bool = False,
) -> jax.Array:
    """Scaled dot-product attention within each sequence of a row.

    Args:
        q_BTNH, k_BSNH, v_BSNH: queries, keys and values in the compute dtype.
        rows: sequence of each token and reach of the layer; `rows.may_see` decides which
            tokens see each other.
        kernel: as `ComputeConfig.attention`.
        dropout: which attention weights are dropped; its attention rate counts here.
        recompute: whether the backward pass computes the attention weights again
            instead of keeping them. The kernels for TPU and GPU always do so.
        products: as `ComputeConfig.products`.
        interpret: whether a kernel for TPU or GPU runs as plain JAX operations, for
            tests on other devices.

    Returns:
        [B, T, N, H] in the dtype of the values. Softmax is computed in float32.

    Raises:
        ValueError: the kernel cannot run with these shapes, settings or on this platform.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    keys_B = dropout.keys_B
    rate = 0.0 if keys_B is None else dropout.rates.attention
    sequence_ids_BT, reach = rows.sequence_ids, rows.reach
    chosen = choose_kernel(
        kernel,
        platform_of(kernel, interpret),
        num_keys=k_BSNH.shape[1],
        head_size=k_BSNH.shape[3],
        dtype=k_BSNH.dtype,
        drops=rate > 0.0,
        reach=reach,
    )
    if chosen == "xla":
        run: Callable = xla_attention
        if is_banded(reach, k_BSNH.shape[1]):
            run = banded_attention
        elif size := block_size(k_BSNH.shape[1]):
            # It keeps no weights in any case.
            run, recompute = functools.partial(blocked_attention, size=size), False
        run = functools.partial(run, dropout_rate=rate, reach=reach, products=products)
        run = jax.checkpoint(run) if recompute else run
        return run(q_BTNH, k_BSNH, v_BSNH, sequence_ids_BT, keys_B)
    arrays = (q_BTNH, k_BSNH, v_BSNH, sequence_ids_BT, sequence_ids_BT)
    axes: tuple[Axes, ...] = (QUERY_AXES, KEY_AXES, KEY_AXES, *_IDS)
    if chosen == "splash":
        splash = functools.partial(splash_attention, reach=reach, interpret=interpret)
        return shard_mapped(splash, axes, QUERY_AXES)(*arrays)
    num_rows, num_queries, num_heads = q_BTNH.shape[:3]
    queries_T = jnp.arange(num_queries, dtype=jnp.int32)
    if chosen == "cudnn":
        cudnn = functools.partial(cudnn_attention, reach=reach, interpret=interpret)
        return shard_mapped(cudnn, (*axes, ("length",)), QUERY_AXES)(*arrays, queries_T)
    words_B2 = jnp.zeros((num_rows, 2), jnp.uint32)
    if keys_B is not None:
        words_B2 = jax.random.key_data(keys_B)[:, :2]
    own = fused_attention if chosen == "fused" else triton_attention
    own = functools.partial(own, dropout_rate=rate, reach=reach, interpret=interpret)
    axes = (*axes, ("batch", None), ("heads",), ("length",))
    heads_N = jnp.arange(num_heads, dtype=jnp.int32)
    return shard_mapped(own, axes, QUERY_AXES)(*arrays, words_B2, heads_N, queries_T)


def platform_of(kernel: Kernel, interpret: bool) -> str:
    """The platform to choose a kernel for; an interpreted kernel counts as on its own."""
    return _PLATFORMS.get(kernel, "tpu") if interpret else platform()


def choose_kernel(
    kernel: Kernel,
    platform: str,
    *,
    num_keys: int,
    head_size: int,
    dtype: jnp.dtype,
    drops: bool,
    reach: int | None = None,
) -> Literal["xla", "splash", "fused", "triton", "cudnn"]:
    """The kernel that the setting `kernel` stands for.

    On GPU, "auto" means "xla" until the others have been timed on one. So far "triton" and
    "cudnn" have been compiled for H100, and neither has run.

    Args:
        kernel: as `ComputeConfig.attention`.
        platform: "cpu", "gpu" or "tpu".
        num_keys: number of tokens in a row.
        head_size: width of a head.
        dtype: type of the keys.
        drops: whether attention weights are dropped.
        reach: of the layer. "splash" computes whole tiles of scores, so it leaves long rows
            with a narrow window to XLA. "fused" does not: for its rows, at most 2,048
            tokens, all scores in fast memory cost less than XLA's way through main memory.
            Compiled for v5e, ModernBERT-base at 1,024 tokens moves 40 % fewer bytes with it
            and computes 20 % more.

    Raises:
        ValueError: a kernel was asked for by name and cannot do that.
    """
    if kernel == "xla" or (kernel == "auto" and platform != "tpu"):
        return "xla"
    if kernel == "triton":
        refusal = attention_gpu.refusal(head_size, dtype)
    elif kernel == "cudnn":
        refusal = attention_cudnn.refusal(head_size, dtype)
    else:
        refusal = attention_fused.refusal(num_keys, head_size, dtype)
    if kernel == "auto":
        if refusal is None:
            return "fused"
        return "xla" if drops or is_banded(reach, num_keys) else "splash"
    if platform != _PLATFORMS[kernel]:
        raise ValueError(
            f'ComputeConfig.attention="{kernel}" is a kernel for '
            f"{_PLATFORM_NAMES[_PLATFORMS[kernel]]}, but the model is compiled for "
            f'{platform}; use "auto" or "xla".'
        )
    if kernel in _WITHOUT_DROPOUT and drops:
        raise ValueError(
            f'ComputeConfig.attention="{kernel}" cannot drop attention weights; use '
            '"auto", or set DropoutConfig.attention=0.'
        )
    if kernel != "splash" and refusal is not None:
        raise ValueError(
            f'ComputeConfig.attention="{kernel}" cannot run: {refusal}; use "auto".'
        )
    return kernel
