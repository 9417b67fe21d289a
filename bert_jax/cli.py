"""`bert-jax COMMAND`: reads the command line, runs one command, reports its errors.

The commands themselves are in `commands/`; only the one that runs is imported, so that
`--help` is quick.
"""

import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bert_jax
from bert_jax.runtime import process, start

# Name, class, and the first line of its docstring: the overview imports no command.
_GROUPS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "To begin": (
        (
            "quickstart",
            "quickstart:Quickstart",
            "Runs every step on real text: from nothing to a classifier in six minutes.",
        ),
        (
            "doctor",
            "commands.doctor:Doctor",
            "Says what this machine is: versions, devices, memory, missing extras, JAX variables.",
        ),
    ),
    "Text and datasets": (
        (
            "corpus",
            "commands.data:Corpus",
            "Writes the documentation of installed Python packages as a text corpus.",
        ),
        (
            "tokenizer",
            "commands.tokenizer:MakeTokenizer",
            "Makes a tokenizer: train trains a vocabulary, wrap takes a given one.",
        ),
        (
            "prepare",
            "commands.data:Prepare",
            "Tokenises a source and writes a TFDS dataset with a validation split.",
        ),
        (
            "inspect",
            "commands.data:Inspect",
            "Prints rows as the model will see them, with masks and pair labels.",
        ),
    ),
    "Training": (
        (
            "pretrain",
            "commands.training:Pretrain",
            "Pretrains a BERT with MLM + NSP, or continues a run that was stopped.",
        ),
        (
            "finetune",
            "commands.training:Finetune",
            "Fine-tunes a pretrained encoder, `finetune RUN`, on labelled files.",
        ),
        (
            "sweep",
            "commands.sweeping:Sweep",
            "Fine-tunes with several seeds and settings, `sweep RUN`: mean ± deviation of each.",
        ),
        (
            "compare",
            "commands.sweeping:Compare",
            "Compares two encoders, `compare A B`, by their fine-tuned runs or their sweeps.",
        ),
        (
            "baselines",
            "commands.training:Baselines",
            "Scores models without a neural network on a task, such as the majority class.",
        ),
        (
            "replay",
            "commands.replay:Replay",
            "Repeats the step at which a run stopped because of bad numbers, and finds the cause.",
        ),
    ),
    "Using a run": (
        (
            "evaluate",
            "commands.training:Evaluate",
            "Scores a run on held-out data: a fine-tuned one at its best state.",
        ),
        (
            "predict",
            "commands.training:Predict",
            "Predicts with a fine-tuned run, on texts, on a file or on lines of standard input.",
        ),
        (
            "fill",
            "commands.filling:Fill",
            "Fills in the masks of texts with a pretrained run: what could stand at [MASK]?",
        ),
        (
            "embed",
            "commands.embedding:Embed",
            "Writes a vector for each text of a file, as a matrix that NumPy loads.",
        ),
        (
            "serve",
            "commands.serving:Serve",
            "Answers over HTTP with a run, and has a page to try it in a browser.",
        ),
    ),
    "Models of other libraries": (
        (
            "import",
            "commands.exchange:Import",
            "Makes a run directory from a published BERT of Hugging Face or Google.",
        ),
        (
            "export",
            "commands.exchange:Export",
            "Writes a run's weights, the best where it keeps them, for another library.",
        ),
    ),
    "Looking": (
        (
            "checkpoints",
            "commands.checkpoints:ListCheckpoints",
            "Lists the checkpoints of a run and reads every file: is it as it was saved?",
        ),
        (
            "report",
            "commands.report:Report",
            "Writes one self-contained HTML page, and PNGs, about runs of any task or a dataset.",
        ),
        (
            "compile",
            "commands.compile:Compile",
            "Compiles a config's train step for a machine that is not here: memory, links, time.",
        ),
    ),
}
_PLACES = {name: place for group in _GROUPS.values() for name, place, _ in group}


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
        _fail(start.INTERRUPTED, 130)
    except BrokenPipeError:
        start.abandon_output()
        raise SystemExit(141) from None
    except Exception as error:
        if start.was_interrupted():
            _fail(start.INTERRUPTED, 130)
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
    command = parse(name, rest)
    from bert_jax.commands.parsing import check

    check(name, command)
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
        lines += [f"  {name:<11} {summary}" for name, _, summary in commands]
    return "\n".join([*lines, "", "`bert-jax COMMAND --help` explains every option."])


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
