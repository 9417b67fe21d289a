"""What every layer may know about its rows, and which tokens may see each other.

Shape suffixes: B rows, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch
from bert_jax.model.rotary import Rotation

# Far below any score: after subtracting the maximum, its exp is exactly 0.
MASKED_SCORE = -1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The sequence and the position of each token; every layer gets this object.

    The last two fields are those of one layer, which `of_layer` adds.
    """

    sequence_ids: jax.Array
    """int32 [B, T]: 1, 2, ... for the sequences that share the row; 0 on padding."""
    position_ids: jax.Array
    """int32 [B, T], counted from 0 in each sequence."""
    reach: int | None = dataclasses.field(default=None, metadata={"static": True})
    """How many tokens away a token sees; None: its whole sequence."""
    rotation: Rotation | None = None
    """By which angles the layer rotates queries and keys, if it does."""

    @staticmethod
    def of_texts(batch: ClassifyBatch) -> "Rows":
        """Rows that each hold one text or one pair of texts."""
        num_rows, length = batch.input_ids.shape
        numbers = jnp.broadcast_to(jnp.arange(length), (num_rows, length))
        return Rows(batch.input_mask, numbers)

    def of_layer(self, reach: int | None, rotation: Rotation | None) -> "Rows":
        """The same rows as a layer with this window and these angles sees them."""
        return dataclasses.replace(self, reach=reach, rotation=rotation)


def may_see(
    query_ids: jax.Array,
    key_ids: jax.Array,
    reach: int | None,
    query_numbers: jax.Array | None = None,
    key_numbers: jax.Array | None = None,
) -> jax.Array:
    """Whether a query attends to a key.

    It does if both belong to the same sequence and are at most `reach` tokens apart.
    Every attention kernel of this package calls this function, block by block. (JAX's
    splash attention has the same rules built in.)

    Args:
        query_ids, key_ids: int32 sequence ids; they broadcast against each other.
        reach: static; None: any distance.
        query_numbers, key_numbers: int32 places in the row, which a reach needs; likewise.

    Returns:
        bool, of the broadcast shape.
    """
    same = query_ids == key_ids
    if reach is None:
        return same
    assert query_numbers is not None
    assert key_numbers is not None
    return same & (jnp.abs(query_numbers - key_numbers) <= reach)
