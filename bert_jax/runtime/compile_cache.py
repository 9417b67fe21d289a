"""Keeps compiled programs on disk, so that the next start need not compile them again."""

import pathlib
import re
from collections.abc import Sequence

import jax
import zstandard

_ENTRY = re.compile(r".+-[0-9a-f]{64}-cache")


def use_compile_cache(
    directory: pathlib.Path | None, devices: Sequence[jax.Device]
) -> None:
    """Lets JAX look up and keep every program in a directory.

    Must be called before the first program is compiled. JAX finds a program by a hash of
    the program, its options, the versions of jaxlib and of the platform's compiler,
    XLA_FLAGS, LIBTPU_INIT_ARGS and the devices. The directory holds code that is executed,
    so trust it as you trust the program.

    Args:
        directory: is created where it is missing; `None` changes nothing.
        devices: the devices that programs are compiled for.

    Raises:
        ValueError: the directory is a file; or there are several CPU devices, whose
            programs must not come from a cache.
    """
    if directory is None:
        return
    if devices[0].platform == "cpu" and len(devices) > 1:
        # Seen with jaxlib 0.10.2: one device waits in a gather, the others in a reduction.
        raise ValueError(
            f"--compile-cache {directory}: there are {len(devices)} CPU devices. XLA on CPU "
            "hangs in the collectives of a program that it loaded from a cache. Leave out "
            "the cache, or use one CPU device, GPUs or TPUs."
        )
    if directory.is_file():
        raise ValueError(
            f"--compile-cache {directory} is a file; expected a directory."
        )
    directory.mkdir(parents=True, exist_ok=True)
    _remove_cut_entries(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory.resolve()))
    # Keep small programs and those that compile quickly too: a start has many of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _remove_cut_entries(directory: pathlib.Path) -> None:
    """Removes programs that a full disk or a kill cut short while JAX wrote them.

    JAX never replaces an entry, so it would compile such a program, and warn, at every start.
    """
    for entry in filter(lambda x: _ENTRY.fullmatch(x.name), directory.iterdir()):
        try:
            zstandard.decompress(entry.read_bytes())
        except zstandard.ZstdError:
            entry.unlink(missing_ok=True)
