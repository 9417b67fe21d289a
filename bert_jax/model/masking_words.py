"""Finds the words of each row, and hides whole words or spans of them.

Shape suffixes: B rows, T tokens (T1 with one entry more), K candidates of one round
(J when each is compared with each).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import PretrainBatch


class Words(NamedTuple):
    """Where words lie. A word stays within its segment and crosses no special token."""

    opens: jax.Array  # bool [B, T], true on the first token of a word
    # int32 [B, T], position of the first token of the word that this token belongs to; a
    # token outside words has its own position.
    begins: jax.Array
    ends: jax.Array  # int32 [B, T], the position after that word
    # int32 [B, T], the position after the last word that follows without a gap.
    stops: jax.Array


def find_words(
    batch: PretrainBatch, starts_word: np.ndarray, maskable_BT: jax.Array
) -> Words:
    """Groups the maskable tokens of each row into words.

    Args:
        batch: rows before masking.
        starts_word: bool [V], true where a piece begins a word. After a token that is not
            maskable, and at the start of a segment or sequence, any piece begins a word.
        maskable_BT: bool [B, T], false on padding and special tokens.
    """
    length = maskable_BT.shape[1]
    at_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
    joined_BT = maskable_BT & _as_before(maskable_BT, fill=False)
    for ids_BT in (batch.sequence_ids, batch.segment_ids):
        ids_BT = jnp.asarray(ids_BT)
        joined_BT &= ids_BT == _as_before(ids_BT, fill=-1)
    starts_BT = jnp.asarray(starts_word)[jnp.asarray(batch.input_ids)]
    opens_BT = maskable_BT & (starts_BT | ~joined_BT)
    latest_BT = jax.lax.cummax(jnp.where(opens_BT, at_1T, 0), axis=1)
    return Words(
        opens=opens_BT,
        begins=jnp.where(maskable_BT, latest_BT, at_1T),
        ends=_next(opens_BT | ~maskable_BT),
        stops=_next(~joined_BT),
    )


def span_limits(words: Words, lengths_BT: jax.Array) -> jax.Array:
    """int32 [B, T], the position after a span of `lengths_BT` words that starts here.

    A span ends earlier if no more words follow without a gap. Only entries on the first
    token of a word have a meaning.
    """
    length = words.opens.shape[1]
    at_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
    firsts_BT = jnp.sort(jnp.where(words.opens, at_1T, length), axis=1)
    numbers_BT = jnp.cumsum(words.opens, axis=1, dtype=jnp.int32) - 1
    # After the last word of a row comes the row's end.
    behind_BT = jnp.minimum(numbers_BT + lengths_BT, length)
    limits_BT = jnp.take_along_axis(_with_end(firsts_BT), behind_BT, axis=1)
    return jnp.minimum(limits_BT, words.stops)


def hide_spans(
    words: Words,
    limits_BT: jax.Array,
    scores_BT: jax.Array,
    wanted_B: jax.Array,
    num_slots: int,
) -> jax.Array:
    """Hides spans in the order of their scores, from the highest down, while they fit.

    The rule is sequential. A word that is already hidden, or that is longer than the
    number of tokens that may still be hidden, starts no span. Every other word starts
    one. The span goes to its limit, but stops before a hidden word and before a word that
    does not fit.

    Most spans of a row do not touch each other. Therefore each round takes all spans
    before the first one that depends on an earlier one. The result is that of the
    sequential rule, in about five rounds instead of one round per span.

    Args:
        words: where words lie.
        limits_BT: int32; on the first token of a word, the position after the longest
            span that may start there. It is the end of a word.
        scores_BT: float32 in [0, 1); among equal scores, the first in the row goes first.
        wanted_B: int32, number of tokens to hide, at most `num_slots`.
        num_slots: M, static.

    Returns:
        int32 [B, T], the position where the span of each hidden token starts; -1 on
        tokens that are not hidden.
    """
    length = words.opens.shape[1]
    at_T = jnp.arange(length, dtype=jnp.int32)
    sizes_BT = words.ends - at_T[None, :]
    begins_BT1 = _with_end(words.begins)
    order_BT = descending(jnp.where(words.opens, scores_BT, -1.0))

    def free(starts_BT: jax.Array, left_B: jax.Array) -> jax.Array:
        return words.opens & (starts_BT < 0) & (sizes_BT <= left_B[:, None])

    def take(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        starts_BT, left_B = state
        # The first M free words in order, filled up with T if there are fewer.
        free_BT = jnp.take_along_axis(free(starts_BT, left_B), order_BT, axis=1)
        place_BT = jnp.sort(jnp.where(free_BT, at_T[None, :], length), axis=1)
        place_BK = place_BT[:, :num_slots]
        first_BK = jnp.take_along_axis(_with_end(order_BT), place_BK, axis=1)
        # A word that does not fit as a whole is not taken.
        cut_BK = jnp.minimum(first_BK + left_B[:, None], length)
        cut_BK = jnp.take_along_axis(begins_BT1, cut_BK, axis=1)
        limit_BT = jnp.minimum(limits_BT, _next(starts_BT >= 0))
        end_BK = jnp.take_along_axis(_with_end(limit_BT), first_BK, axis=1)
        end_BK = jnp.minimum(end_BK, cut_BK)

        taken_BK = _takes(first_BK, end_BK, left_B, free_BK=first_BK < length)
        covers_BKT = (
            taken_BK[:, :, None]
            & (first_BK[:, :, None] <= at_T[None, None, :])
            & (at_T[None, None, :] < end_BK[:, :, None])
        )
        new_BT = jnp.where(covers_BKT, first_BK[:, :, None], -1).max(axis=1)
        spent_BK = jnp.where(taken_BK, end_BK - first_BK, 0)
        left_B -= spent_BK.sum(axis=1, dtype=jnp.int32)
        return jnp.maximum(starts_BT, new_BT), left_B

    # The loop ends: each round takes at least the best free word of each row that has one.
    none_BT = jnp.full(words.opens.shape, -1, jnp.int32)
    starts_BT, _ = jax.lax.while_loop(
        lambda state: free(*state).any(), take, (none_BT, wanted_B)
    )
    return starts_BT


def _takes(
    first_BK: jax.Array, end_BK: jax.Array, left_B: jax.Array, free_BK: jax.Array
) -> jax.Array:
    """bool [B, K], true on candidates that the sequential rule takes for certain.

    These are candidates before the first one whose fate is unclear, because its span
    touches the span of an earlier candidate.

    Args:
        first_BK: start of each candidate's span, best candidate first.
        end_BK: the position after the span, if the candidate were the next to be taken.
        left_B: number of tokens that may still be hidden.
        free_BK: false where there is no candidate.
    """
    num_candidates = first_BK.shape[1]
    earlier_KJ = jnp.asarray(np.tri(num_candidates, k=-1, dtype=bool))
    inside_BKJ = (first_BK[:, None, :] <= first_BK[:, :, None]) & (
        first_BK[:, :, None] < end_BK[:, None, :]
    )
    meets_BKJ = inside_BKJ | inside_BKJ.swapaxes(1, 2)

    def any_earlier(pairs_BKJ: jax.Array, which_BK: jax.Array) -> jax.Array:
        return (pairs_BKJ & which_BK[:, None, :] & earlier_KJ[None]).any(axis=2)

    clear_BK = free_BK & ~any_earlier(meets_BKJ, free_BK)
    # A clear span is taken, or the round ends before it. Either way, a candidate inside
    # it is not taken in this round.
    hidden_BK = any_earlier(inside_BKJ, clear_BK)
    unclear_BK = free_BK & ~clear_BK & ~hidden_BK
    clear_BK &= jnp.cumsum(unclear_BK, axis=1) == 0
    spent_BK = jnp.cumsum(jnp.where(clear_BK, end_BK - first_BK, 0), axis=1)
    # The first span that does not fit must be cut, so it ends the round.
    return clear_BK & (spent_BK <= left_B[:, None])


def descending(scores_BT: jax.Array) -> jax.Array:
    """int32 [B, T], positions by falling score; equal scores keep their order."""
    # Not top_k, because XLA would gather the rows of all devices for it.
    return jnp.argsort(-scores_BT, axis=1, stable=True).astype(jnp.int32)


def _as_before(values_BT: jax.Array, fill: bool | int) -> jax.Array:
    """The values shifted by one: each position gets the value of the one before it."""
    return jnp.pad(values_BT[:, :-1], ((0, 0), (1, 0)), constant_values=fill)


def _next(marks_BT: jax.Array) -> jax.Array:
    """int32 [B, T], the first marked position after each position; T if there is none."""
    length = marks_BT.shape[1]
    at_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
    nearest_BT = jnp.where(marks_BT, at_1T, length)
    nearest_BT = jax.lax.cummin(nearest_BT, axis=1, reverse=True)
    return _with_end(nearest_BT)[:, 1:]


def _with_end(positions_BT: jax.Array) -> jax.Array:
    """The positions with one more entry, T, at the end of each row."""
    length = positions_BT.shape[1]
    return jnp.pad(positions_BT, ((0, 0), (0, 1)), constant_values=length)
