"""The optimizer of a run: a chain of optax's transformations.

To add an optimizer, write a function like `adamw` and name it in `RULES` and in
`OptimizerConfig.name`. Clipping, freezing and the learning rate are the same for all.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.config import OptimizerConfig
from bert_jax.train.averaging import with_average
from bert_jax.train.freezing import without_frozen
from bert_jax.train.moments import moments_of
from bert_jax.train.muon import is_layer_matrix, scale_by_muon
from bert_jax.train.tensors import path_name

# Parameters whose names end so are biases and scales of norms, which do not decay. The
# number of axes does not tell them apart: a stack of biases has two.
_NOT_DECAYED = ("bias", "scale")
# Parts of the model whose tensors are stacked over the layers, [L, ...].
_STACKED = ("layers", "lora")


def make_optimizer(
    cfg: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Clip by the global norm, then the rule, then the learning rates, then the average.

    Whatever `cfg` freezes takes no part in it: it has no gradient in the global norm
    and no moments, and it stays equal bit by bit.

    Args:
        cfg: everything but the learning rates, which are in `schedule`.
        schedule: learning rate by the number of the update in this run. The state
            counts these updates apart from the age of the moments, so that a run with
            kept moments begins its schedule anew.

    Raises:
        ValueError: from `init` and `update`, if `cfg` freezes a part or a layer that
            the model does not have, or everything.
    """
    parts = [
        ("clip", clip_by_global_norm(cfg.clip_norm)),
        ("rule", RULES[cfg.name](cfg)),
        ("rate", optax.scale_by_learning_rate(schedule)),
    ]
    if cfg.layer_decay != 1.0:
        parts.append(("depth", scale_by_depth(cfg.layer_decay, cfg.freeze_layers)))
    optimizer = without_frozen(cfg, optax.named_chain(*parts))
    if cfg.ema_decay is None:
        return optimizer
    return with_average(optimizer, cfg.ema_decay)


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Multiplies all gradients by the number that makes their global norm `largest`.

    Smaller gradients stay as they are, bit by bit. `optax.clip_by_global_norm` divides each
    gradient, and XLA for CPU writes such quotients to memory: nearly a tenth of BERT-base's
    step.

    Source: Pascanu et al. 2013, section 3.2.
    """

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        factor = jnp.minimum(1.0, largest / optax.tree.norm(updates))
        return jax.tree.map(lambda x: x * factor, updates)

    return optax.stateless(update)


def scale_by_depth(
    decay: float, num_frozen: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each update by decay ** n, where n counts the layers above.

    Of L layers, n is 1 for the last one, L for the first one, L + 1 for the embeddings
    and 0 for pooler and heads. Weight decay is a part of the update, and scaled with it.

    Args:
        decay: factor in (0, 1].
        num_frozen: number of first layers that the updates do not hold.

    Source: Clark et al. 2020 (ELECTRA), appendix B; Howard & Ruder 2018, section 3.2.
    """

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        stacks = [leaf.shape[0] for path, leaf in leaves if is_stacked(path)]

        def scaled(path: tuple, update: jax.Array) -> jax.Array:
            if is_stacked(path):
                above = np.arange(update.shape[0], 0, -1)
            elif path[0].key == "embed":
                above = np.array([num_frozen + max(stacks, default=0) + 1])
            else:
                return update
            factors = np.float32(decay**above)
            return update * factors.reshape(-1, *[1] * (update.ndim - 1))

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(update)


def adamw(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """Adam with decoupled weight decay: m / (sqrt(v) + eps) + weight_decay * w.

    Source: google-research/bert, optimization.py (AdamWeightDecayOptimizer).
    """
    return optax.chain(_scale_by_adam(cfg), _decay(cfg))


def stable_adamw(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW that slows down where gradients are larger than their second moments say.

    The update of each tensor, and of each layer of a stack, is divided by
    max(1, sqrt(mean(g ** 2 / max(v, eps ** 2)))), its weight decay included.

    Source: Wortsman et al. 2023, "Stable and low-precision training for large-scale
    vision-language models", algorithm 2.
    """
    inner = adamw(cfg)

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(grads, state, params)
        moments = moments_of(state)
        of_v = _correction(cfg, cfg.b2, moments.age)

        def slowed(path: tuple, x: jax.Array, g: jax.Array, v: jax.Array) -> jax.Array:
            surprise = jnp.square(g) / jnp.maximum(v / of_v, cfg.eps**2)
            axes = tuple(range(1 if is_stacked(path) else 0, x.ndim))
            rms = jnp.sqrt(jnp.mean(surprise, axis=axes, keepdims=True))
            return x / jnp.maximum(1.0, rms)

        updates = jax.tree_util.tree_map_with_path(slowed, updates, grads, moments.nu)
        return updates, state

    return optax.GradientTransformation(inner.init, update)


def lamb(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW with corrected moments, where each layer has a trust ratio.

    Source: You et al. 2020, algorithm 2.
    """
    return optax.chain(
        _scale_by_adam(cfg),
        _decay(cfg),
        optax.masked(_scale_by_layer_trust_ratio(), _decayed),
    )


def _scale_by_layer_trust_ratio() -> optax.GradientTransformation:
    """Multiplies each layer's update, decay included, by its trust ratio.

    `optax.scale_by_trust_ratio` takes one ratio for a tensor, which for stacked layers
    would be one for all layers together.
    """

    def scaled(path: tuple, direction: jax.Array, weights: jax.Array) -> jax.Array:
        return trust_ratio(weights, direction, stacked=is_stacked(path)) * direction

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        return jax.tree_util.tree_map_with_path(scaled, updates, params)

    return optax.stateless(update)


def trust_ratio(
    weights: jax.Array, direction: jax.Array, *, stacked: bool
) -> jax.Array:
    """Norm of a layer's weights over the norm of its update; 1 if either is zero.

    Args:
        weights: float32; may be sharded, the norm is that of the whole array.
        direction: float32, of the same shape: the update with its decay, before the
            learning rate.
        stacked: whether they are those of several layers, [L, ...]. Then each layer has a
            ratio of its own, as if it were a separate parameter.

    Returns:
        float32 scalar, or [L, 1, ...] for stacked layers.

    Source: You et al. 2020, algorithm 2, with the identity as phi.
    """
    axes = tuple(range(1 if stacked else 0, weights.ndim))

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=stacked))

    of_weights, of_update = norm(weights), norm(direction)
    usable = (of_weights > 0) & (of_update > 0)
    return jnp.where(usable, of_weights / jnp.where(usable, of_update, 1.0), 1.0)


def muon(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """Orthogonal directions for the matrices of the layers, AdamW for all the rest.

    Both have the same learning rates and the same weight decay (`scale_by_muon`). The
    rest are embeddings, biases, norms, heads, and the matrices of LoRA.
    """

    def rules(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if is_layer_matrix(path) else "adam", params
        )

    by_rule = {
        "muon": scale_by_muon(cfg.muon_momentum, cfg.muon_rms),
        "adam": _scale_by_adam(cfg),
    }
    return optax.chain(optax.partition(by_rule, rules), _decay(cfg))


RULES: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": adamw,
    "stable_adamw": stable_adamw,
    "lamb": lamb,
    "muon": muon,
}
"""`OptimizerConfig.name` -> how clipped gradients become a direction."""


def is_stacked(path: tuple) -> bool:
    """Whether the tensor of this path is stacked over the layers, [L, ...]."""
    return path[0].key in _STACKED


def _decay(cfg: OptimizerConfig) -> optax.GradientTransformation:
    return optax.add_decayed_weights(cfg.weight_decay, mask=_decayed)


def _scale_by_adam(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """Optax's moments, with the bias correction switched off or exact.

    `optax.scale_by_adam` always corrects, and works out 1 - b ** age by a subtraction
    in float32, which is off by 1.3e-5 of itself for b = 0.999 and age = 1.
    """
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        _, state = adam.update(grads, state, params)
        of_m, of_v = (_correction(cfg, b, state.count) for b in (cfg.b1, cfg.b2))

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            return m / of_m / (jnp.sqrt(v / of_v) + cfg.eps)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def _correction(cfg: OptimizerConfig, b: float, age: jax.Array) -> jax.Array | float:
    """What a moment is divided by: 1 - b ** age, or 1 without bias correction."""
    if not cfg.corrects_bias:
        return 1.0
    # This has float32's precision also for b near 1.
    return -jnp.expm1(age * math.log(b)) if b else jnp.ones(())


def _decayed(params: Any) -> Any:
    """True for each parameter that decays and, in LAMB, has a trust ratio."""

    def one(path: tuple, _: Any) -> bool:
        return not path_name(path).endswith(_NOT_DECAYED)

    return jax.tree_util.tree_map_with_path(one, params)
