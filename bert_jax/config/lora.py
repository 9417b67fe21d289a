"""How LoRA changes an encoder."""

import dataclasses
from typing import Annotated, Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_not_negative,
    require_positive,
    require_used,
)
from bert_jax.config.flags import flag

Target = Literal["query", "key", "value", "out", "up", "gate", "down"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank changes of frozen weights (Hu et al. 2021)."""

    rank: "Annotated[int, flag(name='lora-rank')]" = 0
    """Train low-rank changes of some weights of the encoder, and the head; the encoder's
    own weights stay as they are. A change is the product of two matrices of this rank, and
    is added to the weights that other commands take. It needs a higher learning rate than
    training all weights, about 5e-4. 0: no LoRA."""
    alpha: "Annotated[float, flag(name='lora-alpha')]" = 8.0
    """The change is multiplied by alpha / rank."""
    targets: "Annotated[tuple[Target, ...], flag(name='lora-targets')]" = (
        "query",
        "value",
    )
    """The weights of each layer that LoRA changes. query, key, value, out: those of the
    attention. up, gate, down: those of the feed-forward block; only a gated one has a
    gate."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require_not_negative(self, "rank")
        require_positive(self, "alpha")
        require(
            0 < len(self.targets) == len(set(self.targets)),
            f"LoraConfig.targets={self.targets} must name at least one kind of weights, "
            "and each once.",
        )
        why = "there is no LoRA. Give --lora-rank too, such as 8."
        require_used(self, self.rank > 0, why, "alpha", "targets")
