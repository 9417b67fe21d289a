"""AdamW as BERT had it, and LAMB: gradients become updates.

Both keep the same state, so a checkpoint of one fits the other, whatever is frozen.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig
from bert_jax.train.freezing import frozen_entries, kept
from bert_jax.train.lamb import trust_ratio

# Ends of the names of biases and layer norms' scales. By name, not by rank: stacked
# biases have two axes.
_NOT_DECAYED = ("bias", "scale")


class OptimizerState(NamedTuple):
    step: jax.Array  # int32 scalar, updates of this run: where its schedule is
    age: jax.Array  # int32 scalar, updates in the moments, of the runs before too
    mu: Any  # first moments, like the parameters
    nu: Any  # second moments, like the parameters


def make_optimizer(
    cfg: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The update rule of a run; its state is an `OptimizerState`.

    In this order: frozen entries leave the gradients, the rest is clipped by its
    global norm, enters the moments m and v, and each parameter w changes by

        -rate * r * (m / (sqrt(v) + eps) + weight_decay * w)

    with the moments divided by 1 - b ** age where the bias is corrected, and r = 1
    for AdamW or LAMB's trust ratio. Biases and layer norms have neither decay nor
    ratio. A frozen entry and its moments stay equal bit by bit; only where some layers
    of a stack are frozen do numbers below float32's normal range become zero, as
    which XLA reads them anyway.

    Args:
        cfg: all but its learning rates, which `schedule` has made use of.
        schedule: learning rate by the number of the update in this run; also that of
            the log.

    Raises:
        ValueError: from `init` and `update`, when `cfg` freezes what is not there, or
            everything.

    Source: google-research/bert, optimization.py (AdamWeightDecayOptimizer); You et
    al. 2020, algorithm 2.
    """
    corrected = cfg.bias_correction
    if corrected is None:
        corrected = cfg.name == "lamb"

    def init(params: optax.Params) -> OptimizerState:
        frozen_entries(cfg, params)  # what does not fit must fail here
        zero = jnp.zeros((), jnp.int32)
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return OptimizerState(step=zero, age=zero, mu=mu, nu=nu)

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, OptimizerState]:
        frozen = frozen_entries(cfg, params)
        grads = kept(frozen, jax.tree.map(jnp.zeros_like, grads), grads)
        clip = optax.clip_by_global_norm(cfg.clip_norm)
        grads, _ = clip.update(grads, clip.init(params))

        age = state.age + 1
        mu = jax.tree.map(lambda g, m: cfg.b1 * m + (1 - cfg.b1) * g, grads, state.mu)
        nu = jax.tree.map(
            lambda g, v: cfg.b2 * v + (1 - cfg.b2) * g * g, grads, state.nu
        )
        rate = schedule(state.step)

        def change(path: tuple, w: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            if corrected:
                m, v = m / _weight(cfg.b1, age), v / _weight(cfg.b2, age)
            direction = m / (jnp.sqrt(v) + cfg.eps)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if not name.endswith(_NOT_DECAYED):
                direction = direction + cfg.weight_decay * w
                if cfg.name == "lamb":
                    direction = trust_ratio(name, w, direction) * direction
            return -rate * direction

        changes = jax.tree_util.tree_map_with_path(change, params, mu, nu)
        # w + (-0.0) is w, the zero with a sign included.
        still = jax.tree.map(lambda g: jnp.full_like(g, -0.0), grads)
        return kept(frozen, still, changes), OptimizerState(
            step=state.step + 1,
            age=age,
            mu=kept(frozen, state.mu, mu),
            nu=kept(frozen, state.nu, nu),
        )

    return optax.GradientTransformation(init, update)


def _weight(b: float, age: jax.Array) -> jax.Array:
    """1 - b ** age, exact in float32 for b near 1 too."""
    return -jnp.expm1(age * math.log(b)) if b else jnp.ones(())
