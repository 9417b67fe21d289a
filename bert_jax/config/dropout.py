"""How much is dropped while training."""

import dataclasses

from bert_jax.config.checks import require_fitting, require_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """Shares of units that training zeroes at random (Srivastava et al. 2014)."""

    hidden: float = 0.1
    """Probability that one unit of a hidden state is zeroed: after the embeddings, after
    attention, after the feed-forward layer and before a classifier."""
    attention: float = 0.1
    """Probability that one attention weight is zeroed."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require_rate(self, "hidden", "attention")
