"""A file of JSON lines that a command writes: one object for each text."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from bert_jax.commands.shared import Bar
from bert_jax.config.checks import require
from bert_jax.data.atomic_file import open_atomically, remove_leftovers_of


def check_output(
    output: pathlib.Path, path: pathlib.Path | None, ignored: str | None = None
) -> None:
    """Requires that a file of JSON lines can be written beside what is read.

    Args:
        path: the file of the texts.
        ignored: a flag that only counts on the screen, if it was given.
    """
    require(
        ignored is None,
        f"{ignored} would be ignored: {output} gets all labels. Leave it out.",
    )
    require(
        output.suffix == ".jsonl",
        f"--output {output}: predictions are written as one JSON object a line; give a "
        "name that ends in .jsonl.",
    )
    require(
        path is None or not output.exists() or not output.samefile(path),
        f"--output {output} is the file of the texts; choose another name.",
    )


def write_lines(
    output: pathlib.Path, lines: Iterable[dict[str, Any]], total: int | None
) -> int:
    """Writes the objects as they come, under a progress bar; returns their number.

    The file appears under its name when it is whole. What killed commands left of it is
    deleted first.

    Args:
        total: their number, if it is known.
    """
    written = 0
    remove_leftovers_of(output)
    with open_atomically(output) as file, Bar("texts", unit_scale=False) as bar:
        for written, line in enumerate(lines, 1):
            # The ids of a Parquet file may be dates, which JSON has not.
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
            bar.update(written, total)
    return written
