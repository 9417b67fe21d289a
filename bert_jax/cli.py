"""`bert-jax COMMAND`: reads the command line, runs one command, reports its errors.

The commands themselves are in `commands/`.
"""

import dataclasses
import difflib
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

import bert_jax
from bert_jax.commands import compile as compile_command
from bert_jax.commands import (
    data,
    embedding,
    exchange,
    filling,
    report,
    serving,
    sweeping,
    tokenizer,
    training,
)
from bert_jax.commands.config_files import load_config
from bert_jax.commands.outputs import check_paths
from bert_jax.commands.raw_flags import check_length, is_given, value_of
from bert_jax.commands.repeated_flags import FlagError, refuse_repeated
from bert_jax.config import FinetuneConfig, PretrainConfig
from bert_jax.quickstart import Size, quickstart
from bert_jax.runtime import process, start
from bert_jax.runtime.explanations import explanation, is_of_disk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Runs every step on real text: from nothing to a classifier in six minutes."""

    output: pathlib.Path = pathlib.Path("quickstart")
    """Directory for all results. The same command continues an unfinished quickstart."""
    size: Annotated[Size, tyro.conf.arg(name="")] = Size()

    def run(self) -> None:
        quickstart(self.output, main, self.size)


COMMANDS: dict[str, Any] = {
    "quickstart": Quickstart,
    "corpus": data.Corpus,
    "tokenizer": tokenizer.MakeTokenizer,
    "prepare": data.Prepare,
    "inspect": data.Inspect,
    "pretrain": training.Pretrain,
    "finetune": training.Finetune,
    "sweep": sweeping.Sweep,
    "compare": sweeping.Compare,
    "baselines": training.Baselines,
    "evaluate": training.Evaluate,
    "predict": training.Predict,
    "fill": filling.Fill,
    "embed": embedding.Embed,
    "serve": serving.Serve,
    "import": exchange.Import,
    "export": exchange.Export,
    "report": report.Report,
    "compile": compile_command.Compile,
}


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
        _fail(start.INTERRUPTED, 130)
    except BrokenPipeError:
        start.abandon_output()
        raise SystemExit(141) from None
    except Exception as error:
        if start.was_interrupted():
            _fail(start.INTERRUPTED, 130)
        if debug:
            raise
        if type(error).__name__ == "InterruptedRunError":
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
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        if name.startswith("-"):
            hint = "; a command comes first, then its flags."
        _fail(
            f"unknown command {name!r}{hint} `bert-jax --help` lists all commands.", 2
        )
    start.command_begins(name)
    command = parse(name, rest)
    check_paths(name, command)
    command.run()


def parse(name: str, rest: list[str]) -> Any:
    """Reads the flags of a command; `run()` of the result starts it.

    Raises:
        FlagError: a flag is given twice.
        ValueError, OSError: the config file or a value is wrong.
        SystemExit: a flag is wrong; stderr says which one.
    """
    command = COMMANDS[name]
    default: Any = tyro.MISSING_NONPROP
    if hasattr(command, "config_file") and rest and not rest[0].startswith("-"):
        is_tuned = name in ("finetune", "sweep")
        rest = ["--checkpoint" if is_tuned else "--config", *rest]
    refuse_repeated(command, rest)
    kinds = {
        "pretrain": PretrainConfig,
        "finetune": FinetuneConfig,
        "sweep": FinetuneConfig,
        "compile": PretrainConfig,
    }
    if name not in kinds:
        parsed = tyro.cli(command, args=rest, default=default, prog=f"bert-jax {name}")
        if name in ("evaluate", "predict"):
            # The run says how files are read, so it is read before its flags count.
            try:
                reading = training.file_settings(parsed.run_dir, parsed.task, name)
            except FileNotFoundError:
                return parsed  # the command says so, in a job to all processes
            default = command(run_dir=tyro.MISSING_NONPROP, task=reading)
            return tyro.cli(
                command, args=rest, default=default, prog=f"bert-jax {name}"
            )
        return parsed
    # The file sets the defaults of all flags, so it is read before them.
    file = value_of("--config", rest) or command.config_file
    settings = load_config(file, kinds[name])
    if "first_phase_only" in vars(command) and is_given("--first-phase-only", rest):
        settings = dataclasses.replace(settings, next_phases=())
    required = {
        field.name: tyro.MISSING_NONPROP
        for field in dataclasses.fields(command)
        if field.default is dataclasses.MISSING
    }
    default = command(**required, config_file=file, settings=settings)
    parsed = tyro.cli(command, args=rest, default=default, prog=f"bert-jax {name}")
    if name == "pretrain":
        check_length(parsed.settings, rest)
    if kinds[name] is PretrainConfig and parsed.settings.checkpoint is None:
        parsed.settings.check()
    return dataclasses.replace(parsed, args=tuple(rest))


def _overview() -> str:
    lines = ["usage: bert-jax [--debug | --version] COMMAND [options]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<11} {command.__doc__.splitlines()[0]}")
    return "\n".join([*lines, "", "`bert-jax COMMAND --help` explains every option."])


def _fail(message: str, code: int) -> None:
    who = f"{process.this()}: " if process.this().count > 1 else ""
    print(f"bert-jax: {who}{message}", file=sys.stderr)
    start.silence()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
