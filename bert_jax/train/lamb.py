"""LAMB's trust ratio: each layer's update is scaled to the norm of its weights."""

import jax
import jax.numpy as jnp


def trust_ratio(name: str, weights: jax.Array, direction: jax.Array) -> jax.Array:
    """Norm of a layer's weights over the norm of its update; 1 where either is zero.

    Args:
        name: path of the parameter. What lies under `layers/` is stacked, [L, ...],
            and has one ratio a layer, as if the layers were parameters of their own.
        weights: float32; may be sharded, its norm is that of the whole array.
        direction: float32, of the same shape: the update with its decay, before the
            learning rate.

    Returns:
        float32 scalar, or [L, 1, ...] for stacked parameters.

    Source: You et al. 2020, algorithm 2, with the identity as phi.
    """
    first = 1 if name.startswith("layers/") else 0
    axes = tuple(range(first, weights.ndim))

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=first == 1))

    of_weights, of_update = norm(weights), norm(direction)
    usable = (of_weights > 0) & (of_update > 0)
    return jnp.where(usable, of_weights / jnp.where(usable, of_update, 1.0), 1.0)
