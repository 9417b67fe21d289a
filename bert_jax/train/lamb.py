"""LAMB's trust ratio: each layer's update is scaled to the norm of its weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.train.tensors import path_name


def scale_by_layer_trust_ratio() -> optax.GradientTransformation:
    """Multiplies each layer's update, decay included, by its trust ratio.

    `optax.scale_by_trust_ratio` takes one ratio for a tensor, which for stacked layers
    would be one for all layers together.
    """

    def scaled(path: tuple, direction: jax.Array, weights: jax.Array) -> jax.Array:
        return trust_ratio(path_name(path), weights, direction) * direction

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        return jax.tree_util.tree_map_with_path(scaled, updates, params)

    return optax.stateless(update)


def trust_ratio(name: str, weights: jax.Array, direction: jax.Array) -> jax.Array:
    """Norm of a layer's weights over the norm of its update; 1 if either is zero.

    Args:
        name: path of the parameter. Under `layers/` and `lora/`, layers are stacked,
            [L, ...], and each layer has a ratio of its own, as if it were a separate parameter.
        weights: float32; may be sharded, the norm is that of the whole array.
        direction: float32, of the same shape: the update with its decay, before the
            learning rate.

    Returns:
        float32 scalar, or [L, 1, ...] for stacked layers.

    Source: You et al. 2020, algorithm 2, with the identity as phi.
    """
    first = 1 if name.startswith(("layers/", "lora/")) else 0
    axes = tuple(range(first, weights.ndim))

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=first == 1))

    of_weights, of_update = norm(weights), norm(direction)
    usable = (of_weights > 0) & (of_update > 0)
    return jnp.where(usable, of_weights / jnp.where(usable, of_update, 1.0), 1.0)
