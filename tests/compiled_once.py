"""A program that several tests compile is compiled once in each process of the tests.

Half of their time goes into compilation, and a fifth of that into programs that were
compiled before: every run and every command traces its own.
"""

import collections
from typing import Any

from jax._src import compiler

# Programs are met again soon, mostly in the same file: twice as many save no more.
_MOST_KEPT = 30


def keep_compiled() -> None:
    """Makes JAX ask for programs of this process before it compiles."""
    compile_and_load = compiler.backend_compile_and_load
    kept: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def kept_or_compiled(
        backend, module, executable_devices, options, host_callbacks
    ) -> Any:
        arguments = (backend, module, executable_devices, options, host_callbacks)
        if host_callbacks:  # they belong to one trace
            return compile_and_load(*arguments)
        key = (
            backend,
            module.operation.get_asm(enable_debug_info=False),
            tuple(device.id for device in executable_devices),
            options.SerializeAsString(),
        )
        if key not in kept:
            kept[key] = compile_and_load(*arguments)
        kept.move_to_end(key)
        if len(kept) > _MOST_KEPT:
            kept.popitem(last=False)
        return kept[key]

    compiler.backend_compile_and_load = kept_or_compiled
