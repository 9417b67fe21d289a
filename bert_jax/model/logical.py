"""Names for the axes of activations, without a word about any mesh.

The model says what an axis is ("batch", "heads"); `train/sharding.py` knows which mesh
axis that goes to and hands in the function that applies it while a step is traced.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

Constraint = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]

_constraint: contextvars.ContextVar[Constraint | None] = contextvars.ContextVar(
    "constraint", default=None
)


@contextlib.contextmanager
def constrained_by(constraint: Constraint) -> Iterator[None]:
    """Traces the model with `constraint(array, logical_axes)` on its activations."""
    token = _constraint.set(constraint)
    try:
        yield
    finally:
        _constraint.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """States the logical axes of `x`; without a mesh in force it returns `x`."""
    apply = _constraint.get()
    return x if apply is None else apply(x, axes)
