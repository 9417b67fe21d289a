"""Chooses the positions to hide: single tokens, whole words, or spans of words.

Shape suffixes: B rows, T tokens, M masked slots.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import PretrainBatch
from bert_jax.config import MaskingConfig
from bert_jax.model.masking_words import (
    Words,
    descending,
    find_words,
    hide_spans,
    span_limits,
)


class Choice(NamedTuple):
    positions: jax.Array  # int32 [B, M], ascending; unused slots hold 0
    used: jax.Array  # bool [B, M]
    starts: jax.Array  # int32 [B, M], where the word or span of each position starts


def choose(
    cfg: MaskingConfig,
    batch: PretrainBatch,
    starts_word: np.ndarray,
    maskable_BT: jax.Array,
    wanted_B: jax.Array,
    key: jax.Array,
) -> Choice:
    """Draws up to `wanted_B` positions of each row, in the unit that `cfg` names.

    Args:
        cfg: static.
        batch: rows before masking.
        starts_word: bool [V], true where a piece begins a word. Single tokens ignore it.
        maskable_BT: bool [B, T], false on padding and special tokens.
        wanted_B: int32, at most the number of slots of a row of T tokens.
        key: the only source of randomness.
    """
    num_slots = cfg.num_slots(maskable_BT.shape[1])
    if cfg.unit == "token":
        return choose_tokens(maskable_BT, wanted_B, num_slots, key)
    words = find_words(batch, starts_word, maskable_BT)
    if cfg.unit == "word":
        return choose_words(words, wanted_B, num_slots, key)
    return choose_spans(cfg, words, wanted_B, num_slots, key)


def choose_tokens(
    maskable_BT: jax.Array, wanted_B: jax.Array, num_slots: int, key: jax.Array
) -> Choice:
    """Draws tokens without replacement, each with the same probability."""
    length = maskable_BT.shape[1]
    count_B = jnp.minimum(wanted_B, maskable_BT.sum(axis=1))
    # The positions of the largest uniform scores are a draw without replacement.
    scores_BT = jax.random.uniform(key, maskable_BT.shape, jnp.float32)
    scores_BT = jnp.where(maskable_BT, scores_BT, -1.0)
    chosen_BM = descending(scores_BT)[:, :num_slots]
    used_BM = jnp.arange(num_slots)[None, :] < count_B[:, None]
    # Unused slots are sorted behind the last position, then set to 0.
    positions_BM = jnp.sort(jnp.where(used_BM, chosen_BM, length), axis=1)
    positions_BM = jnp.where(used_BM, positions_BM, 0).astype(jnp.int32)
    return Choice(positions_BM, used_BM, positions_BM)


def choose_words(
    words: Words, wanted_B: jax.Array, num_slots: int, key: jax.Array
) -> Choice:
    """Draws whole words in random order and skips a word that does not fit.

    Smaller words are still tried after it. So a row gets fewer than `wanted_B` hidden
    tokens only if every remaining word is longer than the number of tokens that may
    still be hidden.

    Source: google-research/bert, create_pretraining_data.py (whole word masking).
    """
    scores_BT = jax.random.uniform(key, words.opens.shape, jnp.float32)
    starts_BT = hide_spans(words, words.ends, scores_BT, wanted_B, num_slots)
    return _slots(starts_BT, num_slots)


def choose_spans(
    cfg: MaskingConfig,
    words: Words,
    wanted_B: jax.Array,
    num_slots: int,
    key: jax.Array,
) -> Choice:
    """Draws spans of whole words until `wanted_B` tokens are hidden.

    The first word of a span is drawn uniformly from the words that are not hidden and
    still fit. The span has a random number of words. It ends earlier before a special
    token, at the end of its segment, before a hidden word, or before a word that does
    not fit.

    Source: Joshi et al. 2020 (SpanBERT), section 3.1, which cuts the last word instead.
    """
    score_key, length_key = jax.random.split(key)
    scores_BT = jax.random.uniform(score_key, words.opens.shape, jnp.float32)
    lengths_BT = draw_span_lengths(cfg, words.opens.shape, length_key)
    limits_BT = span_limits(words, lengths_BT)
    starts_BT = hide_spans(words, limits_BT, scores_BT, wanted_B, num_slots)
    return _slots(starts_BT, num_slots)


def draw_span_lengths(
    cfg: MaskingConfig, shape: tuple[int, ...], key: jax.Array
) -> jax.Array:
    """Draws span lengths in words, int32 of `shape`.

    The distribution is geometric, conditioned on lengths from 1 to `max_span_words`.
    With the default settings the mean is 3.8.
    """
    log_rest = math.log1p(-cfg.span_p) if cfg.span_p < 1.0 else -math.inf
    # No span has more words than a row has tokens.
    up_to = np.arange(1, min(cfg.max_span_words, shape[-1]))
    cumulative = np.expm1(up_to * log_rest) / np.expm1(cfg.max_span_words * log_rest)
    drawn = jax.random.uniform(key, shape, jnp.float32)
    steps = jnp.asarray(cumulative, jnp.float32)
    return 1 + jnp.searchsorted(
        steps, drawn, side="right", method="compare_all"
    ).astype(jnp.int32)


def _slots(starts_BT: jax.Array, num_slots: int) -> Choice:
    length = starts_BT.shape[1]
    at_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
    hidden_BT = jnp.where(starts_BT >= 0, at_1T, length)
    positions_BM = jnp.sort(hidden_BT, axis=1)[:, :num_slots]
    used_BM = positions_BM < length
    positions_BM = jnp.where(used_BM, positions_BM, 0)
    return Choice(
        positions_BM, used_BM, jnp.take_along_axis(starts_BT, positions_BM, axis=1)
    )
