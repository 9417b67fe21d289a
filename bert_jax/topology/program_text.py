"""Gets the text of a compiled program, even where the compiler cannot read it back."""

import pathlib
import tempfile
from typing import Any

import jax


def program_text(lowered: Any, compiled: Any) -> str:
    """The optimized HLO of a compiled step.

    libtpu 0.0.52 cannot read back its own program where a gather runs on the sparse cores
    of a v5p: its message says that an async-update with three operands "should have 1".
    Then the step is compiled a second time, and the compiler writes the program to a file.

    Args:
        lowered: the result of `jax.jit(...).lower`.
        compiled: the result of `lowered.compile()`.

    Raises:
        jax.errors.JaxRuntimeError: the program cannot be read back, and no file was written.
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
