"""Hides tokens for the masked language model, on the device and inside the step.

Shape suffixes: B rows, T tokens, M masked slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import MaskVocabulary, PretrainBatch
from bert_jax.config import MaskingConfig
from bert_jax.model.masking_choice import choose
from bert_jax.model.masking_rate import slots_by_length


class MaskedBatch(NamedTuple):
    input_ids: jax.Array  # int32 [B, T], with the replacements applied
    positions: jax.Array  # int32 [B, M], ascending; unused slots hold 0
    labels: jax.Array  # int32 [B, M], original ids; unused slots hold 0
    weights: jax.Array  # float32 [B, M], 1 on used slots, else 0


def mask_tokens(
    cfg: MaskingConfig,
    batch: PretrainBatch,
    vocabulary: MaskVocabulary,
    key: jax.Array,
    rate: jax.Array | None = None,
) -> MaskedBatch:
    """Hides some tokens of each row and returns the original tokens.

    How many tokens are hidden depends on the number of real tokens in the row, special
    tokens included. They are drawn without replacement from the tokens that are not
    [CLS], [SEP] or padding: one by one, by whole words or by spans (`cfg.unit`). Each
    hidden token becomes [MASK], becomes a uniform random token of the whole vocabulary,
    or stays. The tokens of a span share this choice, but not the random token.

    Args:
        cfg: static; unit, rates and number of slots.
        batch: rows before masking; T is static.
        vocabulary: static; vocabulary of the tokenizer. Random tokens are drawn from all
            of its pieces, and never from the padding of the token table.
        key: the only source of randomness.
        rate: the rate of this update from `masking_rate.rate_at`. None: `cfg.rate`.

    Source: Devlin et al. 2018, section 3.1 (task 1) and appendix A.1; for the units see
    `masking_choice`.
    """
    ids_BT = jnp.asarray(batch.input_ids)
    num_rows, length = ids_BT.shape
    num_slots = cfg.num_slots(length)
    special = vocabulary.special
    choice_key, action_key, token_key = jax.random.split(key, 3)

    real_BT = jnp.asarray(batch.sequence_ids) > 0
    maskable_BT = (
        real_BT
        & (ids_BT != special.pad)
        & (ids_BT != special.cls)
        & (ids_BT != special.sep)
    )
    wanted_B = slots_by_length(cfg, length, rate)[real_BT.sum(axis=1)]
    chosen = choose(
        cfg, batch, vocabulary.starts_word, maskable_BT, wanted_B, choice_key
    )
    labels_BM = jnp.take_along_axis(ids_BT, chosen.positions, axis=1)

    if cfg.unit == "span":
        action_BT = jax.random.uniform(action_key, (num_rows, length), jnp.float32)
        action_BM = jnp.take_along_axis(action_BT, chosen.starts, axis=1)
    else:
        action_BM = jax.random.uniform(action_key, (num_rows, num_slots), jnp.float32)
    random_BM = jax.random.randint(
        token_key, (num_rows, num_slots), 0, vocabulary.size, jnp.int32
    )
    shown_BM = jnp.where(
        action_BM < cfg.mask_share,
        special.mask,
        jnp.where(action_BM < cfg.mask_share + cfg.random_share, random_BM, labels_BM),
    )
    # An unused slot writes outside the row, where mode="drop" discards it.
    target_BM = jnp.where(chosen.used, chosen.positions, length)

    # Row by row, because XLA would gather the rows of all devices for one large scatter.
    @jax.vmap
    def put(ids_T: jax.Array, target_M: jax.Array, shown_M: jax.Array) -> jax.Array:
        return ids_T.at[target_M].set(shown_M.astype(ids_T.dtype), mode="drop")

    return MaskedBatch(
        input_ids=put(ids_BT, target_BM, shown_BM),
        positions=chosen.positions,
        labels=jnp.where(chosen.used, labels_BM, 0),
        weights=chosen.used.astype(jnp.float32),
    )
