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
    """Linear from 0; the decay that follows is counted over all steps, so the rate
    falls by the warm-up's share where the two meet."""
    schedule: Literal["linear", "polynomial", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up."""
    decay_power: float = 1.0
    """Of schedule="polynomial": falls as (1 - share of the steps) ** decay_power."""
    end_rate: float = 0.0
    """Learning rate that the decay ends with."""
    weight_decay: float = 0.01
    """Decoupled; not on biases and layer norms, which have no trust ratio either."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool | None = None
    """Of the moments; `None`: not for adamw, as BERT had it, and for lamb."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients, frozen parameters aside."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are: embed, layers, pooler and the heads (mlm and nsp,
    or classifier). The token table of embed is also the masked-LM head's decoder,
    which is frozen with it."""
    freeze_layers: int = 0
    """Encoder layers that stay as they are, counted from the embeddings, which have a
    name of their own in `freeze`."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "eps", "clip_norm", "decay_power")
        require_rate(self, "b1", "b2")
        for name in ("warmup_steps", "weight_decay", "end_rate", "freeze_layers"):
            require(
                getattr(self, name) >= 0,
                f"OptimizerConfig.{name}={getattr(self, name)} must not be negative.",
            )
        require(
            self.decay_power == 1.0 or self.schedule == "polynomial",
            f"OptimizerConfig.decay_power={self.decay_power} would be ignored by "
            f"schedule={self.schedule!r}; it belongs to 'polynomial'.",
        )
        require(
            self.end_rate == 0.0 or self.schedule != "constant",
            f"OptimizerConfig.end_rate={self.end_rate} would be ignored by "
            "schedule='constant', which does not fall.",
        )
        require(
            self.end_rate <= self.learning_rate,
            f"OptimizerConfig.end_rate={self.end_rate} exceeds learning_rate="
            f"{self.learning_rate}; the rate falls from the second to the first.",
        )
        require(
            len(set(self.freeze)) == len(self.freeze),
            f"OptimizerConfig.freeze={self.freeze} names a part twice.",
        )
        require(
            not self.freeze_layers or "layers" not in self.freeze,
            f"OptimizerConfig.freeze_layers={self.freeze_layers} would be ignored: "
            "freeze names 'layers', which are all of them.",
        )
