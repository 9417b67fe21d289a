"""Learning rates: warm-up, decay, and several phases one after the other."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig


def make_schedule(cfg: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Learning rate of update s = 0, 1, ... of one phase: linear up, then a decay.

    Before `warmup_steps` the rate is learning_rate * s / warmup_steps. From there on,
    with p = s / num_steps, it is end_rate + (learning_rate - end_rate) * f(p):

        linear      f = 1 - p
        polynomial  f = (1 - p) ** decay_power
        cosine      f = (1 + cos(pi * p)) / 2
        constant    f = 1

    The decay is counted over all steps, as BERT's was, so the rate falls by the
    warm-up's share where the two meet. From `num_steps` on it stays at its end.

    Returns:
        A pure function of the number of an update, a Python integer or an int32
        scalar; a float32 scalar.

    Source: google-research/bert, optimization.py (create_optimizer); for the cosine
    Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        up = step / max(cfg.warmup_steps, 1)
        # Whole numbers are subtracted, which is exact; 1 - p near the end is not.
        left = jnp.clip(num_steps - step, 0.0, num_steps) / num_steps
        if cfg.schedule == "polynomial":
            left = left**cfg.decay_power
        elif cfg.schedule == "cosine":
            left = jnp.square(jnp.sin(0.5 * math.pi * left))
        elif cfg.schedule == "constant":
            left = jnp.ones_like(left)
        down = cfg.end_rate + (cfg.learning_rate - cfg.end_rate) * left
        return jnp.where(step < cfg.warmup_steps, cfg.learning_rate * up, down)

    return schedule


def join_phases(phases: Sequence[tuple[OptimizerConfig, int]]) -> optax.Schedule:
    """Learning rate over the steps of all phases: each warms up and decays anew.

    Args:
        phases: settings and number of steps of each, in their order.

    Returns:
        As `make_schedule`, by the number of an update among those of all phases.
    """
    schedules = [make_schedule(cfg, num_steps) for cfg, num_steps in phases]
    ends = list(itertools.accumulate(num_steps for _, num_steps in phases))
    return optax.join_schedules(schedules, ends[:-1])
