"""Reads the flags of one command, over the defaults of its config file or its run."""

import dataclasses
import os
import shutil
from typing import Any

import tyro

from bert_jax.commands import training
from bert_jax.commands.config_files import load_config
from bert_jax.commands.raw_flags import (
    check_length,
    is_given,
    value_of,
)
from bert_jax.commands.repeated_flags import refuse_repeated
from bert_jax.config import FinetuneConfig, PretrainConfig

# tyro never ends to lay out its help for screens narrower than about ten columns.
_MIN_COLUMNS = 20

_NOT_YET_PLANNED = 10**9  # steps; more than any run has


def parse(command: Any, name: str, rest: list[str]) -> Any:
    """Reads the flags of a command; `run()` of the result starts it.

    Args:
        command: class of the command.
        name: its name on the command line.
        rest: the flags behind it.

    Raises:
        FlagError: a flag is given twice.
        ValueError, OSError: the config file or a value is wrong.
        SystemExit: a flag is wrong; stderr says which one.
    """

    def read(default: Any = tyro.MISSING_NONPROP) -> Any:
        return tyro.cli(
            command,
            args=rest,
            default=default,
            prog=f"bert-jax {name}",
            config=(tyro.conf.PositionalMetavarFromFieldName,),
        )

    if hasattr(command, "config_file") and rest and not rest[0].startswith("-"):
        is_tuned = name in ("finetune", "sweep")
        rest = ["--checkpoint" if is_tuned else "--config", *rest]
    refuse_repeated(command, rest)
    if shutil.get_terminal_size().columns < _MIN_COLUMNS:
        os.environ["COLUMNS"] = str(_MIN_COLUMNS)
    kinds = {
        "pretrain": PretrainConfig,
        "finetune": FinetuneConfig,
        "sweep": FinetuneConfig,
        "compile": PretrainConfig,
    }
    if name not in kinds:
        parsed = read()
        if name not in ("evaluate", "predict"):
            return parsed
        # The run says how files are read, so it is read before its flags count.
        try:
            file = parsed.data if name == "evaluate" else next(iter(parsed.texts), None)
            reading = training.file_settings(parsed.run_dir, parsed.task, name, file)
        except OSError:
            return parsed  # the command says so, in a job to all processes
        return read(command(run_dir=tyro.MISSING_NONPROP, task=reading))
    # The file sets the defaults of all flags, so it is read before them.
    file = value_of("--config", rest) or command.config_file
    settings = load_config(file, kinds[name])
    if "first_phase_only" in vars(command) and is_given("--first-phase-only", rest):
        settings = dataclasses.replace(settings, next_phases=())
    if name == "pretrain" and is_given("--minutes", rest):
        # A warm-up must fit the steps that are planned, not those of the file.
        settings = dataclasses.replace(settings, num_steps=_NOT_YET_PLANNED)
    required = {
        field.name: tyro.MISSING_NONPROP
        for field in dataclasses.fields(command)
        if field.default is dataclasses.MISSING
    }
    parsed = read(command(**required, config_file=file, settings=settings))
    if name == "pretrain":
        check_length(parsed.settings, rest)
    if kinds[name] is PretrainConfig and parsed.settings.checkpoint is None:
        parsed.settings.check()
    return dataclasses.replace(parsed, args=tuple(rest))
