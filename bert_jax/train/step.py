"""The pure train step: a state and a batch give the next state and metrics."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.model.logical import platform
from bert_jax.model.random_bits import KEY_KIND, root_key
from bert_jax.train import sharding
from bert_jax.train.accumulation import mean_gradients
from bert_jax.train.losses import Mean
from bert_jax.train.objectives import Objective

Step = Callable[[Any, Any], tuple["TrainState", dict[str, Mean]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a resumed run needs; each batch is a function of the step alone."""

    step: jax.Array  # int32 scalar, number of batches applied or passed by
    params: Any
    opt_state: Any
    key: jax.Array  # uint32 [2], root key of masks and dropout; stays as it is


def init_state(
    init_params: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
) -> TrainState:
    """Makes the state of step 0; under jit, it is placed on a mesh.

    Args:
        init_params: draws the parameters from a key.
        optimizer: makes its state from the parameters.
        seed: seed of the parameters, the masks and the dropout; a number, or a uint32
            scalar.
    """
    params_key, step_key = jax.random.split(root_key(seed))
    params = init_params(params_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(step_key),
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
    """Applies one update, unless the loss or the norm of the gradients is NaN or infinite.

    Such a batch is passed by: the next state is that of `pass_by`, and the metrics show
    what was found.

    Args:
        objective: the loss and how rows are prepared for it; static under jit.
        optimizer: turns gradients into updates; static under jit.
        state: the state before the update; its buffers may be donated.
        batch: pytree of global arrays, rows first.
        micro_batches: number of parts of the batch whose gradients are added up. Masks
            and dropout do not depend on it, so the update is that of the whole batch.
        place_gradients: constrains where the gradients live while the update is
            computed.
        place_updates: constrains where the update lives when it is applied.

    Returns:
        The next state, and the metrics, to which the global norm of the gradients is
        added as `grad_norm`. The key of masks and dropout is folded from `state.step`,
        so a resumed run repeats what an uninterrupted one would have drawn.
    """
    key = jax.random.fold_in(
        jax.random.wrap_key_data(state.key, impl=KEY_KIND), state.step
    )
    rows = objective.prepare(batch, key, state.step)
    metrics, grads = mean_gradients(
        objective, state.params, rows, micro_batches, place_gradients
    )
    norm = optax.tree.norm(grads)
    is_good = jnp.isfinite(metrics["loss"].sum) & jnp.isfinite(norm)

    def update(state: TrainState, grads: Any) -> TrainState:
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, place_updates(updates))
        return dataclasses.replace(
            state, step=state.step + 1, params=params, opt_state=opt_state
        )

    def leave_out(state: TrainState, grads: Any) -> TrainState:
        return pass_by(state)

    if platform() == "cpu":
        # For a choice of numbers, XLA copies moments on CPUs (measured: a third more time).
        new_state = jax.lax.cond(is_good, update, leave_out, state, grads)
    else:
        # For TPUs, XLA makes the choice in the loops of the update, at no cost; the host of
        # a GPU would wait for its device at a branch.
        new_state = jax.tree.map(
            lambda new, old: jnp.where(is_good, new, old),
            update(state, grads),
            pass_by(state),
        )
    norm = Mean(norm, jnp.ones((), jnp.float32))
    return new_state, {**metrics, "grad_norm": norm}


def pass_by(state: TrainState) -> TrainState:
    """The state after a batch without an update: only steps are counted on.

    The count of the learning rate's schedule goes on too, so that each step has the rate
    that was planned for it. Parameters, moments, their age and averages stay.
    """

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    opt_state = jax.tree.map(
        lambda node: node._replace(count=node.count + 1) if is_schedule(node) else node,
        state.opt_state,
        is_leaf=is_schedule,
    )
    return dataclasses.replace(state, step=state.step + 1, opt_state=opt_state)


@jax.jit
def is_finite(state: TrainState) -> jax.Array:
    """Whether no parameter and no moment is NaN or infinite, a bool scalar."""
    leaves = jax.tree.leaves((state.params, state.opt_state))
    floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    # Times 0, what is not finite is NaN. Sums compile in half the time of `isfinite`.
    return jnp.isfinite(sum(jnp.sum(x * 0.0) for x in floats))


def abstract_state(
    make: Callable[[], TrainState], mesh: Mesh, *, shard_update: bool = False
) -> TrainState:
    """Shapes, types and placements of the state that `make` would build.

    Args:
        make: builds the state; it is only traced.
        mesh: devices to place it on.
        shard_update: whether the optimizer's state is also split over the copies of
            the model.
    """
    shapes = jax.eval_shape(make)
    places = sharding.shardings(mesh, shapes)
    if shard_update:
        opt_places = sharding.update_shardings(mesh, shapes.opt_state)
        places = dataclasses.replace(places, opt_state=opt_places)
    state: TrainState = sharding.abstract(shapes, places)
    return state


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
    """`train_step` under jit, with every placement stated and the state donated.

    Args:
        objective: as for `train_step`.
        optimizer: as for `train_step`.
        mesh: devices that the step runs on.
        state: abstract, from `abstract_state` with the same `shard_update`.
        micro_batches: as for `train_step`.
        shard_update: whether each copy of the model computes only its share of the
            update.
        compiler_options: XLA's options for this program alone.
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
