"""States that are saved in no time."""

import jax
import jax.numpy as jnp

from bert_jax.train.step import TrainState


def small_state(step: int) -> TrainState:
    """A state of three small tensors, each with other values at every step."""
    numbers = jnp.arange(50.0) + step
    key = jax.random.key_data(jax.random.key(0))
    return TrainState(
        step=jnp.int32(step), params={"a": numbers}, opt_state={"m": -numbers}, key=key
    )
