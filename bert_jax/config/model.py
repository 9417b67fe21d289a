"""The architecture of an encoder, and how it is computed."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import require, require_positive, require_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of one encoder. Defaults are BERT-Base (Devlin et al. 2018)."""

    vocab_size: int = 30_522
    """Pieces of the tokenizer; the token table is padded to a multiple of 128."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_size: int = 3_072
    max_positions: int = 512
    """Rows of the learned position table: the longest sequence."""
    num_segments: int = 2
    gelu: Literal["tanh", "exact"] = "tanh"
    """google-research/bert uses the tanh approximation, Hugging Face's "gelu" erf."""
    dropout_rate: float = 0.1
    """Probability that one hidden unit is zeroed."""
    attention_dropout_rate: float = 0.1
    """Probability that one attention weight is zeroed."""
    layer_norm_eps: float = 1e-12
    init_std: float = 0.02
    """Truncated normal, cut at two deviations and not rescaled."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; parameters, softmax, norms and losses stay float32."""
    scan_layers: bool | None = None
    """One compiled layer in a loop (fast to compile), or all of them in a row; by default
    in a row on CPU, where that is a tenth faster and takes less memory."""
    remat: Literal["none", "attention", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, attention weights, all but matrix
    products, everything but the input of each layer."""
    attention: Literal["auto", "xla", "splash", "fused", "triton"] = "auto"
    """Kernel of self-attention: XLA's; on TPU splash attention (no dropout of the
    weights) or our own that keeps scores on the chip (fused); on NVIDIA GPUs our own
    (triton). auto takes the best that fits on TPU, and XLA's elsewhere."""
    products: Literal["auto", "xla"] = "auto"
    """Of matrices: auto has oneDNN multiply bfloat16 on one CPU device that has
    instructions for it; all else, and with "xla" that too, is XLA's."""
    fp8: bool = False
    """While training, products of the layers' weights round their factors to 8-bit
    floats, which NVIDIA GPUs from Hopper on multiply at twice the rate of bfloat16.
    Other devices get the same numbers, but no speed. Attention, heads and all judging
    stay in bfloat16, which compute_dtype must be."""
    mlm_logits: Literal["whole", "chunked"] = "whole"
    """While training: all logits at once, or some slots of every row after the others,
    each with its part of the gradient. No work is done twice; memory is saved where a
    device's logits pass 128 MiB and no other part of the step needs more."""

    def __post_init__(self) -> None:
        require_positive(
            self,
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "mlp_size",
            "max_positions",
            "num_segments",
            "layer_norm_eps",
            "init_std",
        )
        require_rate(self, "dropout_rate", "attention_dropout_rate")
        require(
            not self.fp8 or self.compute_dtype == "bfloat16",
            f'ModelConfig.fp8 needs compute_dtype="bfloat16", not '
            f'"{self.compute_dtype}": what is not a product of 8-bit floats is in that.',
        )
        require(
            self.hidden_size % self.num_heads == 0,
            f"ModelConfig.hidden_size={self.hidden_size} must divide evenly by "
            f"num_heads={self.num_heads}; the remainder is "
            f"{self.hidden_size % self.num_heads}.",
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table: a multiple of 128, so that any mesh divides it."""
        return -(-self.vocab_size // 128) * 128

    @property
    def judged(self) -> "ModelConfig":
        """The same model as it is judged and used: without what only training rounds."""
        return dataclasses.replace(self, fp8=False)

    def scans_layers(self, platform: str | None) -> bool:
        """What `scan_layers` means on a JAX platform, or for all of them at once (None)."""
        return platform != "cpu" if self.scan_layers is None else self.scan_layers
