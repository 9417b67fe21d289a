"""Groups of rows: folded into rows for the encoder, and unfolded behind it.

Shape suffixes: B groups, G rows of a group, T tokens.
"""

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch
from bert_jax.model.random_bits import row_keys


def folded(
    batch: ClassifyBatch, key: jax.Array | None
) -> tuple[ClassifyBatch, jax.Array | None]:
    """The rows of all groups, [B * G, T], and a random key for each of them.

    The rows of a group stay together, so a group never lies on two devices.

    Args:
        batch: tokens [B, G, T]. Labels and weights are left out.
        key: random key of dropout, or one key per group [B]; `None` stays `None`. The key
            of a row is folded from that of its group and its number in the group, so it
            does not depend on the batch or the devices that hold the group.
    """
    num_groups, size, length = batch.input_ids.shape
    ids, segments, mask = (
        jnp.reshape(x, (num_groups * size, length)) for x in batch[:3]
    )
    rows = ClassifyBatch(ids, segments, mask, labels=None, weights=None)
    keys_B = row_keys(key, num_groups)
    if keys_B is None:
        return rows, None
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys_BG = jax.vmap(fold, in_axes=(0, None))(keys_B, jnp.arange(size))
    return rows, keys_BG.reshape(-1)
