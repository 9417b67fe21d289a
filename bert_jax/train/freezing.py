"""Parameters that stay as they are."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import OptimizerConfig
from bert_jax.train.losses import Mean
from bert_jax.train.objectives import Objective


def frozen_entries(cfg: OptimizerConfig, params: Any) -> Any:
    """Which entries `cfg.freeze` and `cfg.freeze_layers` keep.

    Args:
        cfg: static.
        params: all parameters, or their shapes; its first level are the parts.

    Returns:
        For each leaf a bool array of NumPy: a scalar, or [L, 1, ...] for a stack of
        which only some layers are frozen.

    Raises:
        ValueError: a part or as many layers are not there, or nothing would be left to
            train.
    """
    unknown = [part for part in cfg.freeze if part not in params]
    if unknown:
        raise ValueError(
            f"OptimizerConfig.freeze names {', '.join(map(repr, unknown))}, no part of "
            f"this model; its parts are {', '.join(sorted(params))}."
        )

    def one(path: tuple, leaf: Any) -> np.ndarray:
        part = path[0].key
        if part != "layers" or not cfg.freeze_layers:
            return np.asarray(part in cfg.freeze)
        num_layers = leaf.shape[0]
        if cfg.freeze_layers > num_layers:
            raise ValueError(
                f"OptimizerConfig.freeze_layers={cfg.freeze_layers}, but the encoder "
                f"has {num_layers} layers; freeze at most as many."
            )
        if cfg.freeze_layers == num_layers:
            return np.asarray(True)
        numbers = np.arange(num_layers).reshape(-1, *(1,) * (leaf.ndim - 1))
        return numbers < cfg.freeze_layers

    frozen = jax.tree_util.tree_map_with_path(one, params)
    if all(entries.all() for entries in jax.tree.leaves(frozen)):
        raise ValueError(
            f"OptimizerConfig.freeze={cfg.freeze} and freeze_layers="
            f"{cfg.freeze_layers} freeze every parameter; leave one part to train."
        )
    return frozen


def kept(frozen: Any, old: Any, new: Any) -> Any:
    """`old` where an entry is frozen, `new` elsewhere; all three are like trees."""

    def one(entries: np.ndarray, before: jax.Array, after: jax.Array) -> jax.Array:
        # Whole tensors are decided here, so that nothing is computed for them.
        if entries.all():
            return before
        return jnp.where(entries, before, after) if entries.any() else after

    return jax.tree.map(one, frozen, old, new)


def stop_frozen(cfg: OptimizerConfig, objective: Objective) -> Objective:
    """The same objective, from which no gradient reaches what `cfg` freezes.

    The optimizer leaves such gradients out in any case. This way they are not
    computed, and a logged norm is the one that clips.
    """
    if not cfg.freeze and not cfg.freeze_layers:
        return objective

    def metrics(params: Any, rows: Any) -> dict[str, Mean]:
        constant = jax.lax.stop_gradient(params)
        mixed = kept(frozen_entries(cfg, params), constant, params)
        return objective.metrics(mixed, rows)

    return dataclasses.replace(objective, metrics=metrics)
