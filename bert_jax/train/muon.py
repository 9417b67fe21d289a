"""Muon: the averaged gradient of each matrix of the layers, made nearly orthogonal.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon); the scale is that of Liu et al. 2025, "Muon is
Scalable for LLM Training", section 2.2.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# Coefficients of the quintic iteration, as Jordan et al. and optax have them.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_EPS = 1e-8


class MomentumState(NamedTuple):
    """What Muon knows about the gradients so far."""

    # Optax's name, by which `moments_of` finds it; it hides the method of tuples.
    count: jax.Array  # type: ignore[assignment]
    """int32 scalar: number of updates in `mu`."""
    mu: Any
    """Exponential mean of the gradients, a tree like the parameters."""


def scale_by_muon(momentum: float, rms: float) -> optax.GradientTransformation:
    """Turns gradients of stacked matrices into orthogonal directions, layer by layer.

    The direction of each matrix is `orthogonal` of Nesterov's momentum, times
    rms * sqrt(max(inputs, outputs)). An orthogonal matrix with this factor has entries
    with the root mean square `rms`, whatever its shape, as the directions of Adam have
    one of about 0.2 to 0.4. So learning rates and weight decay of AdamW carry over.

    `optax.contrib.scale_by_muon` corrects the bias of the momentum and keeps the
    coefficients in its state; the first is not in the source, and the second has no
    place in the table of shardings.

    Args:
        momentum: share of the mean of the gradients that an update keeps.
        rms: root mean square of the entries of a direction.

    Returns:
        A transformation for trees of kernels [L, *inputs, *outputs] float32. A kernel
        called `out` has all its axes but the last as inputs, the others only the first.
    """

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def direction(path: tuple, x: jax.Array) -> jax.Array:
        num_layers = x.shape[0]
        if path[-2].key == "out":
            matrices = x.reshape(num_layers, -1, x.shape[-1])
        else:
            matrices = x.reshape(num_layers, x.shape[1], -1)
        scale = rms * math.sqrt(max(matrices.shape[1:]))
        return scale * orthogonal(matrices).reshape(x.shape)

    def update(
        grads: optax.Updates, state: MomentumState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MomentumState]:
        mu = optax.tree.update_moment(grads, state.mu, momentum, 1)
        # Nesterov: the mean as it would be if the same gradient came once more.
        ahead = optax.tree.update_moment(grads, mu, momentum, 1)
        updates = jax.tree_util.tree_map_with_path(direction, ahead)
        return updates, MomentumState(state.count + 1, mu)

    return optax.GradientTransformation(init, update)


def is_layer_matrix(path: tuple) -> bool:
    """Whether the parameter of this path is one of the matrices of the layers."""
    return path[0].key == "layers" and path[-1].key == "kernel"


def orthogonal(matrices: jax.Array) -> jax.Array:
    """Moves the singular values of each matrix near 1, by Newton and Schulz's iteration.

    Most of them end between 0.65 and 1.2, also if the factors of its products are
    rounded to bfloat16, as they are on TPU by default.

    Args:
        matrices: [L, A, B] float32. A matrix of zeros stays one.
    """
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + _EPS)
    for _ in range(_NUM_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
