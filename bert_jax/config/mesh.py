"""How many devices each mesh axis has."""

import dataclasses

from bert_jax.config.checks import require, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each mesh axis has. One axis may be -1: all that remain."""

    slices: int | None = None
    """TPU slices, or groups of nodes, joined by the slower network: the outermost axis,
    copies of the model as with `data`. By default as many as the devices lie in."""
    data: int = -1
    """Copies of the model in a slice, each with its own rows."""
    fsdp: int = 1
    """Rows again, with parameters and optimizer state split."""
    sequence: int = 1
    """Tokens of a row split; keys and values travel to every part."""
    tensor: int = 1
    """Attention heads and feed-forward units split."""
    shard_update: bool = False
    """Split the optimizer's state and work over `data` too (weight-update sharding)."""

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.sequence, self.tensor)
        require(
            all(size == -1 or size > 0 for size in sizes) and sizes.count(-1) <= 1,
            f"MeshConfig data={self.data}, fsdp={self.fsdp}, sequence={self.sequence}, "
            f"tensor={self.tensor}: each must be greater than 0, and one of them may be "
            "-1.",
        )
        if self.slices is not None:
            require_positive(self, "slices")
