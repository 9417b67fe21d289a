"""Computes a step twice from the same state and compares the results bit by bit.

Memory and processors fail now and then without a sign. The program of a step gives the same
bits from the same numbers, so a difference shows such a fault.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.train.step import Step, TrainState
from bert_jax.train.tensors import named_leaves

Note = Callable[..., None]


class CorruptionError(ArithmeticError):
    """A step has another result each time that it is computed."""


def verified(step: Step, note: Note) -> Step:
    """The same step, which is computed again and compared.

    Gradients show in the moments, which are compared with the parameters, the metrics and all
    else that a step returns. Where two results differ, the step is repeated from the state
    before it, and the result that came out twice is taken. All processes of a job call it.

    It takes room for two more states. The devices are the same each time, so a device that is
    always wrong in the same way is not found.

    Args:
        step: gives its state away.
        note: note(kind, said, tensor=...) is called where a fault was found.

    Raises, when the step is called:
        CorruptionError: three results all differ.
    """

    def checked(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        before = _copied(state)
        first = step(state, batch)
        second = step(_copied(before), batch)
        differing = different_tensors(first, second)
        if not differing:
            return first
        third = step(before, batch)
        more = f" and {len(differing) - 1} more tensors" if len(differing) > 1 else ""
        found = f"two results of this step differ in {differing[0]}{more}"
        for result in (first, second):
            if not different_tensors(result, third):
                note(
                    "corrupted",
                    f"{found}. A third one was equal to one of them, bit by bit, and the "
                    "run goes on with it. Memory or a processor of this machine failed.",
                    tensor=differing[0],
                )
                return result
        raise CorruptionError(
            f"Three results of one step, computed from the same state, all differ: {found}. "
            "Nothing was saved since. Either this machine computes wrong, or its program "
            "has operations whose order changes: on NVIDIA GPUs, set "
            "XLA_FLAGS=--xla_gpu_deterministic_ops=true, or leave out --loop.verify-every."
        )

    return checked


def different_tensors(one: Any, other: Any) -> list[str]:
    """Names of the tensors that differ in any bit; those that differ most come first.

    Args:
        one: tree of arrays, in any place.
        other: the same tree, in the same places.
    """
    found = named_leaves(jax.device_get(_distances(one, other)))
    by_distance = sorted(
        (-float(distance), name) for name, distance in found.items() if distance >= 0
    )
    return [name.partition("/")[2] for _, name in by_distance]


def _copied(state: TrainState) -> TrainState:
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(_copy, out_shardings=places)(state)


def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


@jax.jit
def _distances(one: Any, other: Any) -> Any:
    """How far tensors differ, as a share of their largest number; -1 where they are equal."""

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        bits = np.dtype(f"uint{8 * a.dtype.itemsize}")
        one, other = (jax.lax.bitcast_convert_type(x, bits) for x in (a, b))
        x, y = a.astype(jnp.float32), b.astype(jnp.float32)
        largest = jnp.minimum(jnp.abs(x).max(), jnp.abs(y).max())
        share = jnp.abs(x - y).max() / jnp.maximum(largest, 1e-30)
        share = jnp.where(jnp.isfinite(share), share, jnp.inf)
        return jnp.where((one != other).any(), share, -1.0)

    return jax.tree.map(distance, one, other)
