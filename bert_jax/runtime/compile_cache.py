"""Compiled programs kept on disk, so that a start need not compile again."""

import pathlib

import jax


def use_compile_cache(directory: pathlib.Path | None) -> None:
    """Lets JAX look up and keep every program there; `None` changes nothing.

    Must come before the first program is compiled. JAX looks programs up by a hash of the
    program, its options, the versions of jaxlib and of the platform's compiler, XLA_FLAGS,
    LIBTPU_INIT_ARGS and the devices. A cache holds code that is executed: trust it as you
    trust the program.
    """
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory.resolve()))
    # Everything, however small and quickly compiled: a start compiles many programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
