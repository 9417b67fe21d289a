"""How many tokens of a row are hidden, at a rate that may change over a run."""

import jax
import jax.numpy as jnp

from bert_jax.config import MaskingConfig

UNITS = 2**15
"""A rate that changes is a whole number of 32,768ths."""


def rate_at(
    cfg: MaskingConfig, step: jax.Array | int, num_steps: int
) -> jax.Array | None:
    """The masking rate of an update, int32 in 32,768ths; None if it never changes.

    Update s of N has the rate `rate + (end_rate - rate) * s / (N - 1)`. A run of more than
    32,768 updates holds each rate for `ceil(N / 32,768)` updates. All is computed in
    integers, so every device gets the same number.

    Args:
        cfg: static.
        step: number of the update among those of the whole run, from 0.
        num_steps: number of updates of the whole run.

    Source: Yang et al. 2023, Dynamic Masking Rate Schedules for MLM Pretraining
    (arXiv 2305.15096), linear schedule.
    """
    if cfg.is_constant:
        return None
    assert cfg.end_rate is not None
    held = -(-num_steps // UNITS)
    last = max((num_steps - 1) // held, 1)
    done = jnp.minimum(jnp.asarray(step, jnp.int32), num_steps - 1) // held
    first, end = (round(UNITS * rate) for rate in (cfg.rate, cfg.end_rate))
    # Both factors are below 2^15, so the product fits into int32.
    return first + ((end - first) * done + last // 2) // last


def slots_by_length(
    cfg: MaskingConfig, length: int, rate: jax.Array | None
) -> jax.Array:
    """The number of tokens to hide in a row, by the number of its real tokens.

    Args:
        cfg: static.
        length: T, tokens of a row, below 2^16; static.
        rate: from `rate_at`.

    Returns:
        int32 [T + 1], at least 1 and at most `cfg.num_slots(length)`.
    """
    if rate is None:
        # A table made on the host, because the device would round the product in float32.
        slots = jnp.asarray([cfg.num_slots(n) for n in range(length + 1)], jnp.int32)
    else:
        # At most (2^16 - 1) * 2^15 + 2^14, which fits into int32.
        tokens = jnp.arange(length + 1, dtype=jnp.int32)
        slots = jnp.maximum((tokens * rate + UNITS // 2) // UNITS, 1)
    return jnp.minimum(slots, cfg.num_slots(length))
