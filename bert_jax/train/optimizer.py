"""AdamW as BERT had it, from optax's parts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig


class ScaleByAdamState(NamedTuple):
    mu: Any  # first moments, like the parameters
    nu: Any  # second moments


def scale_by_adam_uncorrected(
    b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """Adam without bias correction, which optax's own always applies.

    Source: google-research/bert, optimization.py (AdamWeightDecayOptimizer).
    """

    def init(params: optax.Params) -> ScaleByAdamState:
        return ScaleByAdamState(
            mu=jax.tree.map(jnp.zeros_like, params),
            nu=jax.tree.map(jnp.zeros_like, params),
        )

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByAdamState]:
        del params
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, updates, state.nu)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, ScaleByAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def decayed(params: Any) -> Any:
    """Which parameters weight decay applies to: all but biases and layer norms.

    By name, not by rank: stacked biases have two axes.
    """

    def one(path: tuple, leaf: Any) -> bool:
        del leaf
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return not name.endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(one, params)


def make_optimizer(
    cfg: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Global-norm clip, Adam without bias correction, decoupled decay, schedule."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        scale_by_adam_uncorrected(cfg.b1, cfg.b2, cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule),
    )
