"""What every layer may know about its rows, and which tokens may see each other.

Shape suffixes: B rows, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch

# Far below any score: after subtracting the maximum, its exp is exactly 0.
MASKED_SCORE = -1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The sequence and the position of each token; every layer gets this object."""

    sequence_ids: jax.Array
    """int32 [B, T]: 1, 2, ... for the sequences that share the row; 0 on padding."""
    position_ids: jax.Array
    """int32 [B, T], counted from 0 in each sequence."""

    @staticmethod
    def of_texts(batch: ClassifyBatch) -> "Rows":
        """Rows that each hold one text or one pair of texts."""
        num_rows, length = batch.input_ids.shape
        numbers = jnp.broadcast_to(jnp.arange(length), (num_rows, length))
        return Rows(batch.input_mask, numbers)


def may_see(query_ids: jax.Array, key_ids: jax.Array) -> jax.Array:
    """Whether a query attends to a key: it does if both belong to the same sequence.

    Every attention kernel of this package calls this function, block by block. (JAX's
    splash attention has the same rule built in.)

    Args:
        query_ids, key_ids: int32 sequence ids; they broadcast against each other.

    Returns:
        bool, of the broadcast shape.
    """
    return query_ids == key_ids
