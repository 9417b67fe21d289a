"""JAX's own settings that change the numbers of a run, as this package means them.

They can be set from outside, by `JAX_*` variables or by `jax.config`, and then the same
seed would draw other masks, or weights would become float64.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax

# Of JAX's settings, those that decide which bits a key draws, which types arrays get and
# how factors of products are rounded. Our own configs say the same things.
OURS: dict[str, Any] = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_softmax_custom_jvp": False,
    "jax_allow_f16_reductions": True,
}


_lock = threading.Lock()
_inside = 0  # how many threads are within, each as often as it is
_put_aside: dict[str, Any] = {}


@contextlib.contextmanager
def our_settings() -> Iterator[None]:
    """Within it, JAX has the settings of `OURS`; afterwards it has its own again.

    The settings are those of all threads, so they come back when the last one has left.
    It says on standard error which settings it puts aside, once in a process.

    Raises:
        RuntimeError: a setting cannot be changed, because a context manager of JAX such
            as `jax.enable_x64` holds it.
    """
    global _inside
    with _lock:
        before = {name: getattr(jax.config, name) for name in OURS}
        changed = [name for name in OURS if _plain(before[name]) != OURS[name]]
        for name in changed:
            _say_once(
                f"note: JAX's setting {name}={_plain(before[name])!r} is put aside for "
                f"{OURS[name]!r}: {_source(name)} would change the numbers of a run"
            )
            jax.config.update(name, OURS[name])
        held = [n for n in changed if _plain(getattr(jax.config, n)) != OURS[n]]
        _put_aside.update({n: before[n] for n in changed if n not in held})
        _inside += 1
    try:
        for name in held:
            raise RuntimeError(
                f"JAX's setting {name} is {_plain(before[name])!r} within a context "
                f"manager of JAX, and the numbers of a run need {OURS[name]!r}; leave "
                "that context."
            )
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for name, value in _put_aside.items():
                    jax.config.update(name, value)
                _put_aside.clear()


@functools.cache
def _say_once(note: str) -> None:
    print(note, file=sys.stderr)


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # some settings are members of an enumeration


def _source(name: str) -> str:
    variable = name.upper()
    return f"the variable {variable}" if variable in os.environ else "it"
