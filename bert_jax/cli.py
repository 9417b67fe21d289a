"""`bert-jax COMMAND`: reads the command line, runs one command, reports its errors.

The commands themselves are in `commands/`; only the one that runs is imported, so that
`--help` is quick.
"""

import ast
import difflib
import importlib
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bert_jax
from bert_jax.runtime import process, start

# The commands of each group and their classes. The overview imports none of them.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "To begin": {
        "quickstart": "quickstart:Quickstart",
        "doctor": "commands.doctor:Doctor",
    },
    "Text and datasets": {
        "corpus": "commands.data:Corpus",
        "tokenizer": "commands.tokenizer:MakeTokenizer",
        "prepare": "commands.data:Prepare",
        "inspect": "commands.data:Inspect",
    },
    "Training": {
        "pretrain": "commands.training:Pretrain",
        "finetune": "commands.training:Finetune",
        "sweep": "commands.sweeping:Sweep",
        "compare": "commands.sweeping:Compare",
        "baselines": "commands.training:Baselines",
        "replay": "commands.replay:Replay",
    },
    "Using a run": {
        "evaluate": "commands.training:Evaluate",
        "predict": "commands.prediction:Predict",
        "fill": "commands.filling:Fill",
        "embed": "commands.embedding:Embed",
        "serve": "commands.serving:Serve",
    },
    "Models of other libraries": {
        "import": "commands.exchange:Import",
        "export": "commands.exchange:Export",
    },
    "Looking": {
        "checkpoints": "commands.checkpoints:ListCheckpoints",
        "report": "commands.report:Report",
        "compile": "commands.compile:Compile",
    },
}
_PLACES = {name: place for group in _GROUPS.values() for name, place in group.items()}


class _Commands(Mapping[str, Any]):
    """The class of each command, by name; it is imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        module, _, found = _PLACES[name].partition(":")
        return getattr(importlib.import_module(f"bert_jax.{module}"), found)

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


COMMANDS = _Commands()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 1 on an error, 2 on a wrong flag, 130 on a signal.

    Where the reader of the output has gone (`| head`), the exit code is 141.
    """
    if argv is None:
        start.begin()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = argv[:1] == ["--debug"]
    name = "".join(argv[debug : debug + 1])
    try:
        try:
            _run(argv[debug:])
        finally:
            start.flush_output()
    except KeyboardInterrupt:
        _fail(start.interrupted(), 130)
    except BrokenPipeError:
        start.abandon_output()
        raise SystemExit(141) from None
    except Exception as error:
        if start.was_interrupted():
            _fail(start.interrupted(), 130)
        if debug:
            raise
        from bert_jax.commands.repeated_flags import FlagError
        from bert_jax.runtime.explanations import explanation
        from bert_jax.train.stop_request import InterruptedRunError

        if isinstance(error, InterruptedRunError):
            _fail(str(error), 130)
        first = _first(error)
        said = explanation(first)
        if said is None and isinstance(first, ValueError | OSError | ArithmeticError):
            said = str(first)
        if said is None:
            raise
        _fail(f"{name}: {said}", 2 if isinstance(error, FlagError) else 1)


def _first(error: Exception) -> BaseException:
    """A full disk fails again when files are closed; the first of these errors says more."""
    from bert_jax.runtime.explanations import is_of_disk

    found: BaseException = error
    step: BaseException | None = error
    while is_of_disk(error) and step is not None:
        if isinstance(step, OSError) and (step.errno is None or step.filename):
            found = step
        step = step.__cause__ or (
            None if step.__suppress_context__ else step.__context__
        )
    return found


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    name, *rest = argv
    if name == "--version":
        print(f"bert_jax {bert_jax.__version__}")
        return
    if name == "--completion":
        _print_completion(rest)
        return
    if name not in _PLACES:
        close = difflib.get_close_matches(name, _PLACES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        if name.startswith("-"):
            hint = "; a command comes first, then its flags."
        _fail(
            f"unknown command {name!r}{hint} `bert-jax --help` lists all commands.", 2
        )
    start.command_begins(name)
    try:
        pathlib.Path.cwd()
    except FileNotFoundError:
        _fail("the current directory was deleted; `cd` into one that exists.", 1)
    command = parse(name, rest)
    from bert_jax.commands.outputs import check_paths
    from bert_jax.commands.raw_flags import check_numbers

    check_numbers(command)
    check_paths(name, command)
    if hasattr(command, "cluster"):
        command.run()  # fetches what lies in a store when it has joined its job
        return
    from bert_jax.commands.addresses import on_this_machine

    with on_this_machine(command) as here:
        here.run()


def parse(name: str, rest: list[str]) -> Any:
    """Reads the flags of a command, as `commands.parsing.parse` does.

    Raises:
        KeyError: there is no such command.
    """
    command = COMMANDS[name]
    from bert_jax.commands import parsing

    return parsing.parse(command, name, rest)


def _overview() -> str:
    usage = (
        "usage: bert-jax [--debug | --version | --completion SHELL] COMMAND [options]"
    )
    lines = [usage]
    for group, commands in _GROUPS.items():
        lines += ["", group]
        lines += [f"  {name:<11} {_summary(at)}" for name, at in commands.items()]
    return "\n".join([*lines, "", "`bert-jax COMMAND --help` explains every option."])


def _summary(place: str) -> str:
    """The first line of the docstring of a command, whose module is only parsed."""
    module, _, name = place.partition(":")
    path = pathlib.Path(bert_jax.__file__).parent / f"{module.replace('.', '/')}.py"
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{path} has no class {name}")


def _print_completion(rest: list[str]) -> None:
    """Prints a script that completes commands and flags in a shell: bash or zsh."""
    if rest not in (["bash"], ["zsh"]):
        _fail(f"--completion {' '.join(rest)}: expected --completion bash or zsh.", 2)
    import tyro

    arguments = ["--tyro-print-completion", *rest]
    tyro.extras.subcommand_cli_from_dict(
        dict(COMMANDS), prog="bert-jax", args=arguments
    )


def _fail(message: str, code: int) -> None:
    who = f"{process.this()}: " if process.this().count > 1 else ""
    print(f"bert-jax: {who}{message}", file=sys.stderr)
    start.silence()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
