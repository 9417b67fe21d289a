"""Learning-rate schedules: a warm-up and a decay for each phase of a run."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig


def make_schedule(cfg: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of one phase: it rises linearly, then decays.

    Update s is the one after s others. Before s = w, the rate is learning_rate * s / w,
    where w = cfg.warmup_updates(num_steps). From there on it is
    end_rate + (learning_rate - end_rate) * f, where p = s / num_steps and

        linear      f = 1 - p
        polynomial  f = (1 - p) ** decay_power
        cosine      f = (1 + cos(pi * p)) / 2
        constant    f = 1
        trapezoidal f = 1 - q or 1 - sqrt(q), where q is the share of the last
                    cfg.decay_updates(num_steps) that is done; 1 before them

    The other decays are counted over all updates, as BERT's was, so the rate drops where
    the warm-up ends: by a tenth, if a tenth of all updates warm up and the decay is linear.
    From `num_steps` on, the rate stays at its last value.

    Args:
        cfg: gives rates, warm-up and the kind of decay.
        num_steps: number of updates in the phase.

    Returns:
        A pure function from the number of an update (a Python integer or an int32
        scalar) to its rate (a float32 scalar).

    Raises:
        ValueError: as for `OptimizerConfig.check_steps`.

    Source: google-research/bert, optimization.py (create_optimizer); for the cosine
    Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts; for the trapezoid
    Zhai et al. 2022, section 3.5, and Hägele et al. 2024, section 3.
    """

    cfg.check_steps(num_steps)
    warmup, decay = cfg.warmup_updates(num_steps), cfg.decay_updates(num_steps)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        up = step / max(warmup, 1)
        # The difference of whole numbers is exact in float32; 1 - p near 0 is not.
        left = jnp.clip(num_steps - step, 0.0, num_steps) / num_steps
        if cfg.schedule == "polynomial":
            left = left**cfg.decay_power
        elif cfg.schedule == "cosine":
            left = jnp.square(jnp.sin(0.5 * math.pi * left))
        elif cfg.schedule == "constant":
            left = jnp.ones_like(left)
        elif cfg.schedule == "trapezoidal":
            left = jnp.clip(num_steps - step, 0.0, decay) / decay
            if cfg.decay_shape == "sqrt":
                left = left / (
                    1.0 + jnp.sqrt(1.0 - left)
                )  # 1 - sqrt(1 - left), exactly
        down = cfg.end_rate + (cfg.learning_rate - cfg.end_rate) * left
        return jnp.where(step < warmup, cfg.learning_rate * up, down)

    return schedule


def join_phases(phases: Sequence[tuple[OptimizerConfig, int]]) -> optax.Schedule:
    """The learning rate of a run with several phases, each with its own warm-up.

    Args:
        phases: settings and number of updates of each schedule, in their order. A schedule
            can go over several phases.

    Returns:
        A function like that of `make_schedule`. It takes the number of an update among
        those of all phases.
    """
    schedules = [make_schedule(cfg, num_steps) for cfg, num_steps in phases]
    ends = list(itertools.accumulate(num_steps for _, num_steps in phases))
    return optax.join_schedules(schedules, ends[:-1])
