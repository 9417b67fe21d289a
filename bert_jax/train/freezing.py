"""Freezing: parameters that a run leaves as they are, bit by bit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig
from bert_jax.train.losses import Mean
from bert_jax.train.objectives import Objective


def without_frozen(
    cfg: OptimizerConfig, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Applies `inner` to everything that `cfg` does not freeze.

    `inner` never sees what is frozen: a whole frozen tensor is `optax.MaskedNode` to
    it, and a stack of layers, [L, ...], arrives as [L - freeze_layers, ...]. So frozen
    gradients are in no norm, and no moments are kept for frozen parameters.

    Returns:
        A transformation whose updates for frozen entries are -0.0, since a number plus
        -0.0 is the same number, also where that is -0.0. If `cfg` freezes nothing, it
        is `inner` itself.

    Raises:
        ValueError: from `init` and `update`, if `cfg` names a part or a layer that is
            not there, or everything.
    """
    if not _freezes(cfg):
        return inner

    def labels(tree: Any) -> Any:
        frozen = frozen_tensors(cfg, tree)
        return jax.tree.map(lambda yes: "frozen" if yes else "trained", frozen)

    unchanged = optax.stateless_with_tree_map(lambda grad, _: jnp.full_like(grad, -0.0))
    trained = _without_first_layers(cfg.freeze_layers, inner)
    return optax.partition({"trained": trained, "frozen": unchanged}, labels)


def frozen_tensors(cfg: OptimizerConfig, params: Any) -> Any:
    """Tells which tensors are frozen whole.

    Args:
        cfg: what to freeze.
        params: all parameters, or their shapes; the first level of the tree are the
            parts of the model.

    Returns:
        A tree like `params` of bool. A stack of which only some layers are frozen is
        not frozen whole.

    Raises:
        ValueError: a part or a layer is not there, or nothing is left to train.
    """
    unknown = [part for part in cfg.freeze if part not in params]
    if unknown:
        raise ValueError(
            f"OptimizerConfig.freeze names {', '.join(map(repr, unknown))}, no part of "
            f"this model; its parts are {', '.join(sorted(params))}."
        )

    def one(path: tuple, leaf: Any) -> bool:
        if not _in_stack(path) or not cfg.freeze_layers:
            return path[0].key in cfg.freeze
        num_layers = leaf.shape[0]
        if cfg.freeze_layers > num_layers:
            raise ValueError(
                f"OptimizerConfig.freeze_layers={cfg.freeze_layers}, but the encoder "
                f"has {num_layers} layers; freeze at most as many."
            )
        return cfg.freeze_layers == num_layers

    frozen = jax.tree_util.tree_map_with_path(one, params)
    if all(jax.tree.leaves(frozen)):
        raise ValueError(
            f"OptimizerConfig.freeze={cfg.freeze} and freeze_layers="
            f"{cfg.freeze_layers} freeze every parameter; leave one part to train."
        )
    return frozen


def num_trained(cfg: OptimizerConfig, params: Any) -> int:
    """Number of parameters that `cfg` does not freeze.

    Raises:
        ValueError: as for `frozen_tensors`.
    """

    def one(path: tuple, frozen: bool, leaf: Any) -> int:
        if frozen:
            return 0
        in_layer = leaf.size // leaf.shape[0] if _in_stack(path) else 0
        return leaf.size - in_layer * cfg.freeze_layers

    frozen = frozen_tensors(cfg, params)
    return sum(jax.tree.leaves(jax.tree_util.tree_map_with_path(one, frozen, params)))


def stop_frozen(cfg: OptimizerConfig, objective: Objective) -> Objective:
    """The same objective, from which no gradient reaches what `cfg` freezes.

    The optimizer leaves such gradients out in any case. Stopping them here saves their
    computation, and makes the logged norm the one that the optimizer clips by.
    """
    if not _freezes(cfg):
        return objective

    def one(path: tuple, frozen: bool, leaf: jax.Array) -> jax.Array:
        if frozen:
            return jax.lax.stop_gradient(leaf)
        if not _in_stack(path):
            return leaf
        first, rest = jnp.split(leaf, [cfg.freeze_layers])
        return jnp.concatenate([jax.lax.stop_gradient(first), rest])

    def metrics(params: Any, rows: Any) -> dict[str, Mean]:
        frozen = frozen_tensors(cfg, params)
        mixed = jax.tree_util.tree_map_with_path(one, frozen, params)
        return objective.metrics(mixed, rows)

    return dataclasses.replace(objective, metrics=metrics)


def _without_first_layers(
    num_layers: int, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Hides the first layers of each stack from `inner`; their updates are -0.0."""
    if not num_layers:
        return inner

    def rest(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x[num_layers:] if _in_stack(path) else x, tree
        )

    def whole(path: tuple, x: jax.Array) -> jax.Array:
        if not _in_stack(path):
            return x
        edges = [(num_layers, 0), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, edges, constant_values=-0.0)

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(rest(grads), state, rest(params))
        return jax.tree_util.tree_map_with_path(whole, updates), state

    return optax.GradientTransformation(lambda params: inner.init(rest(params)), update)


def _freezes(cfg: OptimizerConfig) -> bool:
    return bool(cfg.freeze or cfg.freeze_layers)


def _in_stack(path: tuple) -> bool:
    """Whether a parameter is stacked over the encoder's layers, [L, ...]."""
    return path[0].key == "layers"
