"""How many devices each mesh axis has."""

import dataclasses

from bert_jax.config.checks import require, require_fitting, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each mesh axis has. One axis may be -1: all remaining devices."""

    slices: int | None = None
    """Number of TPU slices, or of groups of nodes, that the slower network joins. Each
    has copies of the model, as with `data`. Default: as many as the devices lie in."""
    data: int = -1
    """Number of copies of the model in a slice. Each works on its own rows of a batch."""
    fsdp: int = 1
    """Number of parts into which parameters and optimizer state are split. Each part also
    works on its own rows of a batch."""
    sequence: int = 1
    """Number of parts into which the tokens of a row are split. Keys and values of the
    attention travel to every part."""
    tensor: int = 1
    """Number of parts into which attention heads and feed-forward units are split."""
    shard_update: bool = False
    """Split the optimizer's state and its work over `data` too (weight-update sharding)."""

    def __post_init__(self) -> None:
        require_fitting(self)
        sizes = (self.data, self.fsdp, self.sequence, self.tensor)
        require(
            all(size == -1 or size > 0 for size in sizes) and sizes.count(-1) <= 1,
            f"MeshConfig data={self.data}, fsdp={self.fsdp}, sequence={self.sequence}, "
            f"tensor={self.tensor}: each must be greater than 0, and one of them may be "
            "-1.",
        )
        require_positive(self, "slices")
