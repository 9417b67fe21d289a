"""What every layer may know of the rows it works on, and who may see whom in them.

Shape suffixes: B rows, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch

# Far below any score, and exp of it is exactly 0 after the maximum is taken off.
MASKED_SCORE = -1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Where each token of a batch stands; it travels whole into every layer."""

    sequence_ids: jax.Array
    """int32 [B, T]: 1, 2, ... for each sequence that shares the row; 0 on padding."""
    position_ids: jax.Array
    """int32 [B, T], counted from 0 in each sequence."""

    @staticmethod
    def of_texts(batch: ClassifyBatch) -> "Rows":
        """Rows that hold one text, or one pair of texts, each."""
        num_rows, length = batch.input_ids.shape
        numbers = jnp.broadcast_to(jnp.arange(length), (num_rows, length))
        return Rows(batch.input_mask, numbers)


def may_see(query_ids: jax.Array, key_ids: jax.Array) -> jax.Array:
    """Whether a query attends to a key: where both are of the same sequence.

    Every attention kernel asks this function, block by block, so what it says holds for
    all of them. (JAX's own splash attention has the same rule built in.)

    Args:
        query_ids, key_ids: int32 sequence ids; they broadcast against each other.

    Returns:
        bool, of the broadcast shape.
    """
    return query_ids == key_ids
