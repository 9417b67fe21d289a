"""A program that the compiler cannot read back is read as the compiler writes it."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from bert_jax.topology.program_text import program_text


class Unreadable:
    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")


class Lowered:
    """Writes `files` where a compiler is told to write its program."""

    def __init__(self, *files):
        self.files = files

    def compile(self, compiler_options):
        folder = pathlib.Path(compiler_options["xla_dump_to"])
        for name in self.files:
            (folder / name).write_text(name)


def test_a_program_is_read():
    lowered = jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((2, 2)))
    compiled = lowered.compile()
    assert program_text(lowered, compiled) == compiled.as_text()


def test_what_cannot_be_read_back_is_read_as_it_is_written():
    lowered = Lowered("m.before_optimizations.txt", "m.after_codegen.txt")
    assert program_text(lowered, Unreadable()) == "m.after_codegen.txt"


@pytest.mark.parametrize("files", [(), ("a.after_codegen.txt", "b.after_codegen.txt")])
def test_what_is_not_written_either_is_an_error(files):
    with pytest.raises(jax.errors.JaxRuntimeError, match="RET_CHECK"):
        program_text(Lowered(*files), Unreadable())
