"""The optimizer of a run: a chain of optax's transformations, and its moments.

To add an optimizer, write a function like `adamw` and name it in `RULES` and in
`OptimizerConfig.name`. Clipping, freezing and the learning rate are the same for all.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.config import OptimizerConfig
from bert_jax.train.freezing import without_frozen
from bert_jax.train.lamb import scale_by_layer_trust_ratio

# Parameters whose names end so are biases and scales of norms, which do not decay. The
# number of axes does not tell them apart: a stack of biases has two.
_NOT_DECAYED = ("bias", "scale")
# Parts of the model whose tensors are stacked over the layers, [L, ...].
_STACKED = ("layers", "lora")


class Moments(NamedTuple):
    """What Adam knows about the gradients so far."""

    mu: Any
    """First moments: a tree like the parameters, without what is frozen."""
    nu: Any
    """Second moments, likewise."""
    age: jax.Array
    """int32 scalar: number of updates in them, also those of earlier runs."""


def make_optimizer(
    cfg: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Clip by the global norm, then the rule, then the learning rates.

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
        ("clip", optax.clip_by_global_norm(cfg.clip_norm)),
        ("rule", RULES[cfg.name](cfg)),
        ("rate", optax.scale_by_learning_rate(schedule)),
    ]
    if cfg.layer_decay != 1.0:
        parts.append(("depth", scale_by_depth(cfg.layer_decay, cfg.freeze_layers)))
    return without_frozen(cfg, optax.named_chain(*parts))


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
    return optax.chain(
        _scale_by_adam(cfg, corrected=bool(cfg.bias_correction)),
        optax.add_decayed_weights(cfg.weight_decay, mask=_decayed),
    )


def lamb(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW with corrected moments, where each layer has a trust ratio.

    Source: You et al. 2020, algorithm 2.
    """
    return optax.chain(
        _scale_by_adam(cfg, corrected=cfg.bias_correction is not False),
        optax.add_decayed_weights(cfg.weight_decay, mask=_decayed),
        optax.masked(scale_by_layer_trust_ratio(), _decayed),
    )


RULES: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": adamw,
    "lamb": lamb,
}
"""`OptimizerConfig.name` -> how clipped gradients become a direction."""


def moments_of(opt_state: Any) -> Moments:
    """Finds the moments in the state of any chain that has one Adam in it.

    Raises:
        ValueError: there is no Adam in it, or there are several.
    """
    found = [
        leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_adam) if _is_adam(leaf)
    ]
    if len(found) != 1:
        raise ValueError(
            f"The optimizer's state holds the moments of {len(found)} Adams; expected "
            "one. Start with fresh moments."
        )
    return Moments(mu=found[0].mu, nu=found[0].nu, age=found[0].count)


def with_moments(opt_state: Any, moments: Moments) -> Any:
    """The same state with other moments, whose run may have frozen other parameters.

    Moments of a parameter that is frozen now are left out. A parameter that was frozen
    then keeps the moments that it has in `opt_state`.

    Args:
        opt_state: of any chain that has one Adam in it.
        moments: trees of arrays like the parameters.

    Returns:
        A state like `opt_state`. The schedule's own count is not touched.

    Raises:
        ValueError: there is no Adam in `opt_state`, or there are several.
    """
    moments_of(opt_state)  # checks that there is one

    def replaced(node: Any) -> Any:
        if not _is_adam(node):
            return node
        return node._replace(
            count=moments.age,
            mu=_fitted(node.mu, moments.mu),
            nu=_fitted(node.nu, moments.nu),
        )

    return jax.tree.map(replaced, opt_state, is_leaf=_is_adam)


def is_stacked(path: tuple) -> bool:
    """Whether the tensor of this path is stacked over the layers, [L, ...]."""
    return path[0].key in _STACKED


def _scale_by_adam(
    cfg: OptimizerConfig, *, corrected: bool
) -> optax.GradientTransformation:
    """Optax's moments, with the bias correction switched off or exact.

    `optax.scale_by_adam` always corrects, and works out 1 - b ** age by a subtraction
    in float32, which is off by 1.3e-5 of itself for b = 0.999 and age = 1.
    """
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        _, state = adam.update(grads, state, params)
        of_m, of_v = (
            _one_minus_power(b, state.count) if corrected else 1.0
            for b in (cfg.b1, cfg.b2)
        )

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            return m / of_m / (jnp.sqrt(v / of_v) + cfg.eps)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def _one_minus_power(b: float, age: jax.Array) -> jax.Array:
    """1 - b ** age, to float32's precision also for b near 1."""
    return -jnp.expm1(age * math.log(b)) if b else jnp.ones(())


def _decayed(params: Any) -> Any:
    """True for each parameter that decays and, in LAMB, has a trust ratio."""

    def one(path: tuple, _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return not name.endswith(_NOT_DECAYED)

    return jax.tree_util.tree_map_with_path(one, params)


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def _fitted(fresh: Any, kept: Any) -> Any:
    """`kept` in the shape of `fresh`, completed with numbers of `fresh`."""
    there = dict(jax.tree_util.tree_leaves_with_path(kept))

    def one(path: tuple, new: jax.Array) -> jax.Array:
        old = there.get(path, new)
        more = new.shape[0] - old.shape[0] if new.ndim else 0
        if not more:
            return old
        # The runs freeze another number of a stack's layers, always the first ones.
        both = jnp.concatenate([new[:more], old]) if more > 0 else old[-more:]
        return jax.device_put(both, jnp.asarray(new).sharding)

    return jax.tree_util.tree_map_with_path(one, fresh)
