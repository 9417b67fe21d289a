"""Which tokens are hidden: drawn on the device, inside the step, from a key.

Shape suffixes: B rows, T tokens, M masked slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import MaskingConfig


class MaskedBatch(NamedTuple):
    input_ids: jax.Array  # int32 [B, T], with the replacements applied
    positions: jax.Array  # int32 [B, M], ascending; unused slots hold 0
    labels: jax.Array  # int32 [B, M], what stood there
    weights: jax.Array  # float32 [B, M], 1 on used slots, else 0


def mask_tokens(
    cfg: MaskingConfig,
    batch: PretrainBatch,
    special: SpecialIds,
    vocab_size: int,
    key: jax.Array,
) -> MaskedBatch:
    """Hides some tokens of each row and returns what they were.

    The number of hidden tokens follows from the row's real tokens, specials counted;
    they are drawn without replacement from those that are not [CLS], [SEP] or padding.
    Each becomes [MASK], a uniform random token of the whole vocabulary, or stays.

    Args:
        cfg: rates.
        batch: rows before masking; T is static.
        special: ids of the special tokens.
        vocab_size: random replacements are drawn from [0, vocab_size).
        key: the only source of randomness.

    Source: Devlin et al. 2018, section 3.1 (task 1) and appendix A.1.
    """
    ids_BT = jnp.asarray(batch.input_ids)
    num_rows, length = ids_BT.shape
    num_slots = cfg.num_slots(length)
    choice_key, action_key, token_key = jax.random.split(key, 3)

    real_BT = batch.sequence_ids > 0
    maskable_BT = (
        real_BT
        & (ids_BT != special.pad)
        & (ids_BT != special.cls)
        & (ids_BT != special.sep)
    )
    num_real_B = real_BT.sum(axis=1)
    # By table: rounding the product on the device would round in float32.
    slots_of = jnp.asarray([cfg.num_slots(n) for n in range(length + 1)], jnp.int32)
    wanted_B = jnp.minimum(slots_of[num_real_B], num_slots)
    count_B = jnp.minimum(wanted_B, maskable_BT.sum(axis=1))

    # The largest of independent uniform scores are a draw without replacement.
    scores_BT = jax.random.uniform(choice_key, (num_rows, length))
    scores_BT = jnp.where(maskable_BT, scores_BT, -1.0)
    _, chosen_BM = jax.lax.top_k(scores_BT, num_slots)
    used_BM = jnp.arange(num_slots)[None, :] < count_B[:, None]
    # Unused slots sort behind the last position, then point at 0.
    positions_BM = jnp.sort(jnp.where(used_BM, chosen_BM, length), axis=1)
    positions_BM = jnp.where(used_BM, positions_BM, 0).astype(jnp.int32)
    labels_BM = jnp.take_along_axis(ids_BT, positions_BM, axis=1)

    action_BM = jax.random.uniform(action_key, (num_rows, num_slots))
    random_BM = jax.random.randint(token_key, (num_rows, num_slots), 0, vocab_size)
    shown_BM = jnp.where(
        action_BM < cfg.mask_share,
        special.mask,
        jnp.where(action_BM < cfg.mask_share + cfg.random_share, random_BM, labels_BM),
    )
    # A slot out of use writes outside the row, where "drop" discards it.
    target_BM = jnp.where(used_BM, positions_BM, length)
    rows_B1 = jnp.arange(num_rows)[:, None]
    return MaskedBatch(
        input_ids=ids_BT.at[rows_B1, target_BM].set(
            shown_BM.astype(ids_BT.dtype), mode="drop"
        ),
        positions=positions_BM,
        labels=jnp.where(used_BM, labels_BM, 0),
        weights=used_BM.astype(jnp.float32),
    )
