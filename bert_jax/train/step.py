"""The pure train step: a state and a batch give the next state and metrics."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.train import sharding
from bert_jax.train.accumulation import mean_gradients
from bert_jax.train.losses import Mean
from bert_jax.train.objectives import Objective

Step = Callable[[Any, Any], tuple["TrainState", dict[str, Mean]]]


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
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    *,
    micro_batches: int = 1,
    place_gradients: Callable[[Any], Any] = lambda tree: tree,
    place_updates: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[TrainState, dict[str, Mean]]:
    """Applies one update.

    Args:
        objective: static.
        optimizer: static.
        state: may be donated.
        batch: pytree of global arrays, rows first.
        micro_batches: parts of the batch whose gradients are added up; they change
            neither masks nor dropout, so the update is that of the whole batch.
        place_gradients: states where gradients live while an update is worked out.
        place_updates: states where an update lives when it is applied.

    Returns:
        The next state, and the metrics with the gradient's global norm among them.
        The key of masks and dropout is folded from `state.step`, so a resumed run
        repeats what an uninterrupted one would have drawn.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    rows = objective.prepare(batch, key)
    metrics, grads = mean_gradients(
        objective, state.params, rows, micro_batches, place_gradients
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, place_updates(updates)),
        opt_state=opt_state,
    )
    norm = Mean(optax.tree.norm(grads), jnp.ones((), jnp.float32))
    return new_state, {**metrics, "grad_norm": norm}


def abstract_state(
    make: Callable[[], TrainState], mesh: Mesh, *, shard_update: bool = False
) -> TrainState:
    """Shapes, types and placements of the state that `make` would build.

    Args:
        shard_update: split the optimizer's state over the copies of the model too.
    """
    shapes = jax.eval_shape(make)
    places = sharding.shardings(mesh, shapes)
    if shard_update:
        opt_places = sharding.update_shardings(mesh, shapes.opt_state)
        places = dataclasses.replace(places, opt_state=opt_places)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        places,
    )


def compile_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    *,
    micro_batches: int = 1,
    shard_update: bool = False,
    compiler_options: dict[str, bool | int] | None = None,
) -> Step:
    """The step under jit, every placement stated and the state donated.

    Args:
        state: abstract, from `abstract_state` with the same `shard_update`.
        compiler_options: of XLA, for this program alone.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    place = jax.lax.with_sharding_constraint
    gradient_places = places.params
    if shard_update:
        gradient_places = sharding.update_shardings(mesh, state.params)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Mean]]:
        with sharding.on_mesh(mesh):
            return train_step(
                objective,
                optimizer,
                state,
                batch,
                micro_batches=micro_batches,
                place_gradients=functools.partial(place, shardings=gradient_places),
                place_updates=functools.partial(place, shardings=places.params),
            )

    return jax.jit(
        step,
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options,
    )
