"""How gradients become updates."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import require, require_positive, require_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as BERT had it (google-research/bert, optimization.py), or LAMB."""

    name: Literal["adamw", "lamb"] = "adamw"
    """lamb scales each layer's update to the norm of its weights (You et al. 2020)."""
    learning_rate: float = 1e-4
    """At the top of the warm-up."""
    warmup_steps: int = 10_000
    """Linear from 0; the decay that follows is counted over all steps."""
    schedule: Literal["linear", "polynomial", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up."""
    decay_power: float = 1.0
    """Of schedule="polynomial": the rate is (1 - share of the steps) ** decay_power."""
    end_rate: float = 0.0
    """Learning rate that the decay ends with."""
    weight_decay: float = 0.01
    """Decoupled; not on biases and layer norms."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool | None = None
    """Of the moments; `None`: not for adamw, as BERT had it, and for lamb."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are: embed, layers, pooler, mlm, nsp."""
    freeze_layers: int = 0
    """Encoder layers that stay as they are, counted from the embeddings."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "eps", "clip_norm", "decay_power")
        require_rate(self, "b1", "b2")
        for name in ("warmup_steps", "weight_decay", "end_rate", "freeze_layers"):
            require(
                getattr(self, name) >= 0,
                f"OptimizerConfig.{name}={getattr(self, name)} must not be negative.",
            )
