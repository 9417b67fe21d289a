"""How a network is computed: nothing here changes what it is."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import require, require_fitting

Attention = Literal["auto", "xla", "splash", "fused", "triton", "cudnn"]
Products = Literal["auto", "xla"]
Remat = Literal["none", "attention", "dots", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Number types, kernels and what is kept in memory; may change at any restart.

    The same weights give the same results with any of these settings, up to rounding.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the factors of matrix products. Parameters, softmax, norms and losses are
    float32 with either."""
    attention: Attention = "auto"
    """Kernel of self-attention. auto: fused or splash on TPU, xla elsewhere. xla: plain
    operations, on any device. splash: JAX's kernel for TPU, which cannot drop attention
    weights. fused: our kernel for TPU, which keeps scores on the chip. triton: our kernel
    for NVIDIA GPUs. cudnn: NVIDIA's library for its GPUs, which takes bfloat16 only and
    cannot drop attention weights; its gradients repeat bit by bit only with
    XLA_FLAGS=--xla_gpu_exclude_nondeterministic_ops=true. No GPU has run the last two yet."""
    products: Products = "auto"
    """Who multiplies matrices. auto: oneDNN for bfloat16 on one CPU device that has
    instructions for it, else XLA. xla: always XLA."""
    scan_layers: bool | None = None
    """True: one compiled layer in a loop, which is fast to compile. False: all layers in
    a row. Default: in a row on CPU, where that is a tenth faster and takes less memory,
    and in a loop elsewhere."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it, besides norms and
    activations. none: nothing. attention: the attention weights. dots: all but the
    results of matrix products. full: everything but the input of each layer."""
    fp8: bool = False
    """While training, round the factors of the layers' matrix products to 8-bit floats,
    which NVIDIA GPUs from Hopper on multiply at twice the rate of bfloat16. Other devices
    give the same numbers and are not faster. Attention, heads and evaluation stay in
    bfloat16, which `dtype` must be."""
    mlm_logits: Literal["whole", "chunked"] = "whole"
    """How training makes the logits of the masked tokens. whole: all at once. chunked:
    some tokens of every row after the others, each chunk with its part of the gradient;
    this takes less memory where the logits of a device exceed 128 MiB."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require(
            not self.fp8 or self.dtype == "bfloat16",
            f'ComputeConfig.fp8 needs dtype="bfloat16", not "{self.dtype}": what is not '
            "a product of 8-bit floats is computed in that type.",
        )

    @property
    def inference(self) -> "ComputeConfig":
        """How evaluation and prediction compute: without what only training rounds."""
        return dataclasses.replace(self, fp8=False)

    @property
    def on_any_platform(self) -> "ComputeConfig":
        """The same where the platform may be another one: with a kernel that it has."""
        return dataclasses.replace(self, attention="auto")

    def scans_layers(self, platform: str | None) -> bool:
        """What `scan_layers` means on a JAX platform, or on all of them at once (None)."""
        return platform != "cpu" if self.scan_layers is None else self.scan_layers
