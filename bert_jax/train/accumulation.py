"""Gradients of a batch, computed at once or summed over micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.model.logical import constrain
from bert_jax.train.losses import Mean
from bert_jax.train.objectives import Objective


def mean_gradients(
    objective: Objective,
    params: Any,
    rows: Any,
    micro_batches: int = 1,
    place: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[dict[str, Mean], Any]:
    """Metrics of all rows and the gradient of their loss.

    The loss is a sum of means, and the weight of each mean is first counted over all
    rows. Each micro-batch then adds its part of the sums. So a micro-batch with few masked
    tokens counts less, and the result is that of the whole batch, except for the order of
    additions.

    Args:
        objective: static.
        params: float32 tree.
        rows: result of `objective.prepare` for a batch; rows are the first axis.
        micro_batches: number of parts; must divide the rows of each device.
        place: constrains where the gradients live.

    Returns:
        The metrics, with "loss" among them, and a tree like `params`.
    """
    weights = objective.weights(rows)

    def share(params: Any, rows: Any) -> tuple[jax.Array, dict[str, Mean]]:
        metrics = objective.metrics(params, rows)
        terms = (Mean(metrics[n].sum, w).value() for n, w in weights.items())
        return sum(terms, start=jnp.zeros(())), metrics

    gradient = jax.value_and_grad(share, has_aux=True)

    def one(rows: Any) -> tuple[jax.Array, dict[str, Mean], Any]:
        (loss, metrics), grads = gradient(params, rows)
        return loss, metrics, place(grads)

    if micro_batches == 1:
        loss, metrics, grads = one(rows)
    else:
        parts = jax.tree.map(lambda x: _split(x, micro_batches), rows)
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        zeros = (*zeros[:2], place(zeros[2]))

        def add(sums: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, one(part)), None

        (loss, metrics, grads), _ = jax.lax.scan(add, zeros, parts)
    return {**metrics, "loss": Mean(loss, jnp.ones((), jnp.float32))}, grads


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...].

    A part takes every `parts`-th row, so that each device holds rows of all parts.
    """
    split = jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
    return constrain(split, None, "batch", *(None,) * (x.ndim - 1))
