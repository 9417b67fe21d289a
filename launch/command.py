"""A bert-jax command that will run on other machines, checked on this one."""

import pathlib
import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

from bert_jax import cli
from launch.local import COMMANDS

_WITH_MESH = ("pretrain", "finetune")

Options = TypeVar("Options")


def parsed(
    options: type[Options], argv: Sequence[str] | None, *, prog: str, description: str
) -> tuple[Options, list[str]]:
    """A launcher's own options, and the words of the command behind `--`.

    Args:
        argv: of the launcher; those of this process when `None`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    own = tyro.cli(options, args=words[:end], prog=prog, description=description)
    return own, words[end + 1 :]


def checked_command(
    command: Sequence[str], *, shared: str, staged: str | None, kind: str, slices: int
) -> list[str]:
    """The command with the flags of its job added, after bert-jax's parser has read it.

    A start from a checkpoint that is not on this machine cannot be read here, since the
    checkpoint decides what the flags may be; that is said on stderr.

    Args:
        command: name of a command and its flags.
        shared: folder that all hosts see; the run directory must lie below it.
        staged: where a dataset is copied before the start, if it is.
        kind: for --cluster.kind.
        slices: for --mesh.slices.

    Raises:
        ValueError: what is wrong, and what to do.
        SystemExit: the parser refused a flag, and said why.
    """
    words = list(command)
    if not words or words[0] not in COMMANDS:
        first = words[0] if words else "nothing"
        raise ValueError(
            f"the command after -- is {first}; one of {', '.join(COMMANDS)} was "
            "expected, with its flags."
        )
    for word in words:
        if "gs://" in word:
            raise ValueError(
                f"{word}: bert-jax opens files by path; write the place below {shared}, "
                "where the bucket is mounted."
            )
        if word.startswith("--cluster."):
            raise ValueError(f"{word}: leave it out; the launcher sets it.")
    _check_places(words, shared, staged)
    words += ["--cluster.kind", kind]
    given = cli.value_of("--mesh.slices", words)
    if given is None and slices > 1 and words[0] in _WITH_MESH:
        words += ["--mesh.slices", str(slices)]
    elif given is not None and given != str(slices):
        raise ValueError(
            f"--mesh.slices {given}: the job has {slices}; leave it out or make them "
            "equal."
        )
    start = cli.value_of("--checkpoint", words)
    if start is not None and not pathlib.Path(start).exists():
        print(f"flags not checked: {start} is not on this machine", file=sys.stderr)
    else:
        cli.parse(words[0], words[1:])
    return words


def _check_places(words: list[str], shared: str, staged: str | None) -> None:
    workdir = cli.value_of("--workdir", words)
    if words[0] == "evaluate":
        workdir = next((w for w in words[1:] if not w.startswith("-")), None)
    if workdir is None:
        raise ValueError(f"no --workdir; it must lie below {shared}.")
    if pathlib.PurePosixPath(shared) not in pathlib.PurePosixPath(workdir).parents:
        raise ValueError(
            f"{workdir} is not below {shared}: all hosts write into one run directory, "
            "and only what is there outlives them."
        )
    dataset = cli.value_of("--data.dataset", words)
    if staged is not None and dataset != staged:
        raise ValueError(
            f"--data.dataset is {dataset}; the staged copy lies at {staged}."
        )
