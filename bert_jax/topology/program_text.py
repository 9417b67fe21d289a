"""The text of a compiled program, also where the compiler's own reader fails on it."""

import pathlib
import tempfile
from typing import Any

import jax


def program_text(lowered: Any, compiled: Any) -> str:
    """The optimized HLO of a compiled step.

    libtpu 0.0.52 cannot read back its own program where a gather goes to the sparse cores
    of a v5p (an async-update with three operands, "should have 1"). There the step is
    compiled once more, and the compiler writes the same program as it goes.

    Args:
        lowered: of `jax.jit(...).lower`.
        compiled: what `lowered.compile` gave.

    Raises:
        jax.errors.JaxRuntimeError: the program cannot be read, nor was it written.
    """
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        with tempfile.TemporaryDirectory(prefix="bert_jax_hlo_") as folder:
            lowered.compile(
                compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            )
            written = list(pathlib.Path(folder).glob("*.after_codegen.txt"))
            if len(written) != 1:
                raise
            return written[0].read_text()
