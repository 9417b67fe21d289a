"""The average of the parameters over the updates, kept beside them in the state."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.train import sharding
from bert_jax.train.step import TrainState

AVERAGE = "average"
"""Name of the average's part in the optimizer's state."""


class AverageState(NamedTuple):
    """An average of parameters."""

    age: jax.Array
    """int32 scalar: number of updates in it."""
    mean: Any
    """A tree like the parameters. Zeros before the first update."""


def with_average(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """The same updates, and an exponential average of what they make of the parameters.

    After t updates, the parameters after update s have a weight that is proportional to
    decay ** (t - s). The initial parameters are not in the average. Parameters that
    never change have an average that is equal to them bit by bit.

    Args:
        optimizer: makes the updates.
        decay: share of the average that an update keeps, in (0, 1).
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: AverageState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AverageState]:
        assert params is not None
        age = state.age + 1
        # The sum of the weights decay ** 0 to decay ** (age - 1), times 1 - decay.
        total = -jnp.expm1(age * math.log(decay))
        share = jnp.where(age == 1, 1.0, (1.0 - decay) / total)
        mean = jax.tree.map(
            lambda mean, new: mean + share * (new - mean),
            state.mean,
            optax.apply_updates(params, updates),
        )
        return updates, AverageState(age, mean)

    average = optax.GradientTransformation(init, update)
    return optax.named_chain(("update", optimizer), (AVERAGE, average))


def averaged(state: TrainState) -> TrainState:
    """The state with the average as its parameters, if it has one.

    Before the first update the parameters stay as they are. They were drawn or read, and
    the average knows nothing of them.
    """

    def is_average(node: Any) -> bool:
        return isinstance(node, AverageState)

    found = [
        node
        for node in jax.tree.leaves(state.opt_state, is_leaf=is_average)
        if is_average(node)
    ]
    if not found or int(found[0].age) == 0:
        return state
    return dataclasses.replace(state, params=found[0].mean)


def abstract_average(params: Any) -> AverageState:
    """Shapes and placements of the average of abstract parameters."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    age: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
    return AverageState(age, params)
