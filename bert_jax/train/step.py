"""The pure train step: a state and a batch give the next state and metrics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.train import sharding
from bert_jax.train.losses import Mean

# (params, batch, key) -> loss to minimise, and metrics as undivided means.
LossFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, Mean]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a resumed run needs: the batches are functions of the step."""

    step: jax.Array  # int32 scalar, number of updates applied
    params: Any
    opt_state: Any
    key: jax.Array  # uint32 [2], root of masks and dropout; never advanced


def init_state(
    init_params: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    seed: int,
) -> TrainState:
    """A state at step 0; trace it under jit to place it on a mesh."""
    params_key, root_key = jax.random.split(jax.random.key(seed))
    params = init_params(params_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(root_key),
    )


def train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
) -> tuple[TrainState, dict[str, Mean]]:
    """Applies one update.

    Args:
        loss_fn: static.
        optimizer: static.
        state: may be donated.
        batch: pytree of global arrays, rows first.

    Returns:
        The next state, and the metrics with the gradient's global norm among them.
        The key of masks and dropout is folded from `state.step`, so a resumed run
        repeats what an uninterrupted one would have drawn.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params, batch, key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
    )
    one = jnp.ones((), jnp.float32)
    return new_state, {
        "loss": Mean(loss, one),
        **metrics,
        "grad_norm": Mean(optax.tree.norm(grads), one),
    }


def abstract_state(make: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Shapes, types and placements of the state that `make` would build."""
    shapes = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        sharding.shardings(mesh, shapes),
    )


def compile_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Mean]]]:
    """The step under jit, every placement stated and the state donated."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Mean]]:
        with sharding.on_mesh(mesh):
            return train_step(loss_fn, optimizer, state, batch)

    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        step,
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )
