"""Addresses of object stores (gs://, s3://) among a command's flags become local folders."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

from bert_jax.commands.shared import agree_on_flags
from bert_jax.config.address import address_of, map_paths

Command = TypeVar("Command")

_RUNS = ("run_dir", "checkpoint")  # whose weights are read
_FILES = ("pretrain", "finetune", "a", "b", "reference", "tokenizer", "source")
_DATASETS = ("dataset", "mixture", "data")  # `open_dataset` fetches them


@contextlib.contextmanager
def on_this_machine(command: Command) -> Iterator[Command]:
    """Gives the command with local folders: fetched, or copied into the store at the end.

    A process of a job calls this when it has joined: if it fails, the others must know.

    Raises:
        ValueError: a flag holds an address, and must be a local path; or the hosts of the
            job have other flags.
        FileNotFoundError, OSError: as for `fetch_run` and `trained_in_store`.
    """
    agree_on_flags(command)
    with contextlib.ExitStack() as held:
        yield map_paths(command, lambda path, flag: _local(path, flag, command, held))


def _local(
    path: pathlib.Path, flag: str, command: Any, held: contextlib.ExitStack
) -> pathlib.Path:
    address = address_of(path)
    if address is None or flag in _DATASETS:
        return path
    from bert_jax.commands.checkpoints import ListCheckpoints
    from bert_jax.commands.replay import Replay
    from bert_jax.commands.training import Finetune, Pretrain
    from bert_jax.train.runs.run_in_store import fetch_run, trained_in_store

    if flag in _FILES:
        return fetch_run(address, "none")
    # The batch of a bad step stays on the machine where the run has stopped.
    if flag in _RUNS and not isinstance(command, Replay):
        if isinstance(command, ListCheckpoints):
            return fetch_run(address, "all")
        settings = getattr(command, "settings", command)
        step = getattr(settings, "checkpoint_step", getattr(command, "step", None))
        goes_on = isinstance(command, Pretrain)
        return fetch_run(address, "newest" if goes_on else "one", step)
    if flag == "output" and isinstance(command, Pretrain | Finetune):
        return held.enter_context(trained_in_store(address, command.settings.loop))
    raise ValueError(
        f"--{flag.replace('_', '-')} {address}: this is read or written on this machine "
        "only. Give a local path, and copy the files from or to the store."
    )
