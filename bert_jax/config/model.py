"""The architecture of an encoder: what its checkpoints mean."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import require, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of one encoder. Defaults are BERT-Base (Devlin et al. 2018).

    Two ends of a hand-off have equal ones: a run and its checkpoints, a run and the
    run that it starts from. How it is computed stands in `ComputeConfig`.
    """

    vocab_size: int = 30_522
    """Number of pieces of the tokenizer. The token table is padded to a multiple of 128."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_size: int = 3_072
    max_positions: int = 512
    """Rows of the learned position table: the length of the longest sequence in tokens."""
    num_segments: int = 2
    """Rows of the segment table: 2 where sentence pairs have an A and a B."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """Form of the GELU activation. tanh: the approximation of google-research/bert.
    exact: with the error function, which Hugging Face calls "gelu"."""
    layer_norm_eps: float = 1e-12
    init_std: float = 0.02
    """Standard deviation of fresh weights: a normal distribution, cut at two deviations
    and not rescaled."""

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
