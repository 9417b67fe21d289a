"""`bert-jax COMMAND`: reads the command line, runs one command, reports its errors.

The commands themselves are in `commands/`.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from bert_jax.commands import compile as compile_command
from bert_jax.commands import data, exchange, report, tokenizer, training
from bert_jax.commands.config_files import load_config
from bert_jax.config import FinetuneConfig, PretrainConfig
from bert_jax.quickstart import Size, quickstart
from bert_jax.runtime import process


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
    "baselines": training.Baselines,
    "evaluate": training.Evaluate,
    "predict": training.Predict,
    "import": exchange.Import,
    "export": exchange.Export,
    "report": report.Report,
    "compile": compile_command.Compile,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 1 on an error, 2 on a wrong flag, 130 on a signal."""
    if argv is None:
        _use_huge_pages()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv[:1]
    argv = argv[debug:]
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    if argv[0] not in COMMANDS:
        print(_overview(), file=sys.stderr)
        _fail(f"unknown command {argv[0]!r}", 2)
    name, *rest = argv
    try:
        parse(name, rest).run()
    except KeyboardInterrupt:
        _fail("interrupted; start the same command again to continue", 130)
    except Exception as error:
        if debug:
            raise
        if type(error).__name__ == "InterruptedRunError":
            _fail(str(error), 130)
        if isinstance(error, (ValueError, OSError, ArithmeticError)):
            _fail(f"{name}: {error}", 1)
        raise


HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""The value that `GLIBC_TUNABLES` gets, unless the user has set one."""


def _use_huge_pages() -> None:
    """Starts this process again with glibc's allocator on transparent huge pages.

    XLA on CPU allocates its buffers anew at every step. Faulting them in as pages of
    4 KiB costs a fifth of a small model's step (benchmarks/LOG.md). glibc reads the
    setting only when a process starts. A `GLIBC_TUNABLES` that the user has set stays.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def parse(name: str, rest: list[str]) -> Any:
    """Reads the flags of a command; `run()` of the result starts it.

    Raises:
        ValueError, OSError: the config file, the checkpoint or a value is wrong.
        SystemExit: a flag is wrong; stderr says which one.
    """
    command = COMMANDS[name]
    default: Any = tyro.MISSING_NONPROP
    kinds = {
        "pretrain": PretrainConfig,
        "finetune": FinetuneConfig,
        "compile": PretrainConfig,
    }
    if name not in kinds:
        return tyro.cli(command, args=rest, default=default, prog=f"bert-jax {name}")
    if rest and not rest[0].startswith("-"):
        rest = ["--config", *rest]
    # The file sets the defaults of all flags, so it is read before them.
    file = value_of("--config", rest) or command.config_file
    settings = load_config(file, kinds[name])
    required = {
        field.name: tyro.MISSING_NONPROP
        for field in dataclasses.fields(command)
        if field.default is dataclasses.MISSING
    }
    default = command(**required, config_file=file, settings=settings)
    parsed = tyro.cli(command, args=rest, default=default, prog=f"bert-jax {name}")
    if name != "compile" and parsed.settings.checkpoint is not None:
        from bert_jax.commands.foreign_checkpoint import import_checkpoint

        own = import_checkpoint(parsed.settings, parsed.output, parsed.cluster)
        parsed = dataclasses.replace(parsed, settings=own)
    if kinds[name] is PretrainConfig and parsed.settings.checkpoint is not None:
        from bert_jax.commands.architecture import take_architecture

        taken = take_architecture(parsed.settings, settings.model)
        return dataclasses.replace(parsed, settings=taken)
    return parsed


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The value of a flag in unparsed arguments. If it is given twice, the last counts."""
    value = None
    for place, arg in enumerate(args):
        if arg == flag and place + 1 < len(args):
            value = args[place + 1]
        elif arg.startswith(f"{flag}="):
            value = arg.partition("=")[2]
    return value


def _overview() -> str:
    lines = ["usage: bert-jax [--debug] COMMAND [options]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<11} {command.__doc__.splitlines()[0]}")
    return "\n".join([*lines, "", "`bert-jax COMMAND --help` explains every option."])


def _fail(message: str, code: int) -> None:
    who = f"{process.this()}: " if process.this().count > 1 else ""
    print(f"bert-jax: {who}{message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
