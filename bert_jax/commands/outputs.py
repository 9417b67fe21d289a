"""Checks the paths of a command before it begins to work for hours."""

import os
import pathlib
from typing import Any

from bert_jax.config.address import map_paths

_WRITE_A_FILE = ("compare", "compile", "predict", "fill", "embed")
_MAY_WRITE_INTO_INPUT = ("report",)


def check_paths(name: str, command: Any) -> None:
    """Returns if `--output` can be written and is none of the command's inputs.

    Args:
        name: of the command; it says whether `--output` is a file or a directory.
        command: its parsed flags.

    Raises:
        ValueError: the output is a file where a directory is needed or the other way
            round, cannot be written, or is also an input; or a path begins with `~`.
    """
    paths: list[tuple[str, pathlib.Path]] = []

    def note(path: pathlib.Path, flag: str) -> pathlib.Path:
        paths.append((flag, path))
        return path

    map_paths(command, note)
    for flag, path in paths:
        if path.parts[:1] and path.parts[0].startswith("~") and not path.exists():
            raise ValueError(
                f"{flag}={path}: the shell has left ~ as it is, which it does after an = "
                "sign. Write a blank in its place, or $HOME for ~."
            )
    outputs = [path for flag, path in paths if flag == "output"]
    if not outputs:
        return
    (output,) = outputs
    if name in _WRITE_A_FILE:
        _check_file(output)
    else:
        _check_directory(output)
    for flag, path in paths:
        is_same = path.exists() and path.resolve() == output.resolve()
        if flag != "output" and is_same and name not in _MAY_WRITE_INTO_INPUT:
            raise ValueError(
                f"--output {output} is also what the command reads ({flag}={path}). Choose "
                "another --output."
            )


def _check_file(output: pathlib.Path) -> None:
    if output.is_dir():
        raise ValueError(f"--output {output} is a directory; expected a file to write.")
    if not output.absolute().parent.is_dir():
        raise ValueError(
            f"--output {output}: there is no directory {output.parent}. Create it, or "
            "choose another file."
        )


def _check_directory(output: pathlib.Path) -> None:
    absolute = output.absolute()
    there = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(
            f"--output {output}: {there} is a file; expected a directory. Choose another "
            "--output."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"--output {output}: {there} cannot be written. Change its permissions, or "
            "choose another --output."
        )
