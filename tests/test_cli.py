"""What the command line says of errors that are nobody's mistake in the program."""

import dataclasses
import errno
import os
from typing import ClassVar

import pytest
from jax.errors import JaxRuntimeError

from bert_jax import cli
from bert_jax.runtime.explanations import explanation, system_reason
from bert_jax.train.stop_request import InterruptedRunError


@dataclasses.dataclass
class Failing:
    """A command that fails as a test wants it."""

    error: ClassVar[Exception]

    def run(self) -> None:
        raise self.error


@pytest.fixture
def say(monkeypatch, capsys):
    """say(error, command): exit code and what is printed when the command raises it."""
    monkeypatch.setattr(cli, "parse", lambda name, rest: Failing())

    def run(error: BaseException, command: str = "pretrain") -> tuple[object, str]:
        Failing.error = error
        with pytest.raises(SystemExit) as ended:
            cli.main([command])
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "x", "run/results.json"),
            "run/results.json: no space left on device. Make room there, then start",
        ),
        (OSError(errno.EROFS, "x", "ds/index"), "ds/index: read-only file system. Choose"),
        (PermissionError(errno.EACCES, "x", "a"), "a: permission denied. Change the perm"),
        (FileNotFoundError(errno.ENOENT, "x", "a"), "a: no such file or directory."),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), "a/b: not a directory."),
        (OSError(errno.EIO, "x"), "standard output, or a file of the command: input/output"),
        (OSError("run: a sentence of ours."), "run: a sentence of ours."),
        (
            RuntimeError("write() failed: No space left on device; writing ds/train"),
            "no space left on device (write() failed: No space left on device; writing "
            "ds/train). Make room there, then start",
        ),
        (
            Exception("I/O error: File too large (os error 27)"),
            "file too large (I/O error: File too large (os error 27)). Raise the limit of",
        ),
        (MemoryError(), "this machine has too little memory. Lower --batch-size"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9"),
            "the device has too little memory (RESOURCE_EXHAUSTED: Out of memory while",
        ),
        (
            RuntimeError("Unable to initialize backend 'foo': not in the list. (set JAX_"
            "PLATFORMS='' to automatically choose)"),
            "JAX_PLATFORMS=foo asks for a platform that JAX does not find on this machine "
            "(Unable to initialize backend 'foo': not in the list). Unset JAX_PLATFORMS",
        ),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_it_is_one_line_without_a_traceback(say, monkeypatch, error, sentence):
    monkeypatch.setenv("JAX_PLATFORMS", "foo")
    code, err = say(error)
    assert code == 1
    assert err.startswith(f"bert-jax: pretrain: {sentence}")
    assert err.count("\n") == 1


def test_an_error_of_the_program_itself_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "parse", lambda name, rest: Failing())
    for error in (
        RuntimeError("a bug"),
        AssertionError(),
        JaxRuntimeError("INTERNAL: x"),
    ):
        assert explanation(error) is None
        Failing.error = error
        with pytest.raises(type(error)):
            cli.main(["pretrain"])


def test_jax_without_its_platform_only_asserts_and_is_explained(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    source = compile("assert False", "/lib/jax/_src/xla_bridge.py", "exec")
    with pytest.raises(AssertionError) as raised:
        exec(source)
    said = explanation(raised.value)
    assert said is not None
    assert said.startswith("JAX_PLATFORMS=cuda asks for a platform that JAX does not")


def test_a_second_error_while_files_are_closed_hides_no_first_one(say):
    first = OSError("A checkpoint could not be written.")
    first.__cause__ = ValueError("of TensorStore")
    closing = OSError(errno.ENOSPC, "x")
    closing.__context__ = first
    second = OSError(errno.ENOSPC, "x", "run/goodput.json")
    second.__cause__ = closing
    assert say(second) == (
        1,
        "bert-jax: pretrain: A checkpoint could not be written.\n",
    )


def test_a_signal_and_a_stopped_run_end_with_130(say):
    stopped = InterruptedRunError("stopped at 3")
    sentence = "bert-jax: interrupted; start the same command again to continue\n"
    assert say(KeyboardInterrupt()) == (130, sentence)
    assert say(KeyboardInterrupt(), "serve") == (130, "bert-jax: interrupted\n")
    assert say(stopped) == (130, "bert-jax: stopped at 3\n")


def test_a_reader_that_has_gone_is_no_error(say, monkeypatch):
    monkeypatch.setattr("bert_jax.runtime.start.abandon_output", lambda: None)
    assert say(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))) == (141, "")


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["pretrian"], "unknown command 'pretrian'; did you mean 'pretrain'?"),
        (["zzz"], "unknown command 'zzz'. `bert-jax --help` lists all commands."),
        (["--output", "x"], "unknown command '--output'; a command comes first"),
    ],
)
def test_an_unknown_command_gets_a_hint(refused, argv, hint):
    assert hint in refused(*argv, code=2)


def test_a_current_directory_that_was_deleted_is_named(tmp_path, monkeypatch, refused):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current directory was deleted" in refused("checkpoints", tmp_path)


def test_the_number_of_a_system_error_is_found_in_the_text_of_tensorstore():
    text = "Failed to write 9 bytes: No space left on device [os_error_code='28']"
    assert system_reason(ValueError(text)) == "no space left on device"
    assert system_reason(ValueError("another")) is None
