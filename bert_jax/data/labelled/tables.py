"""Files of labelled text, row by row, as they are in the wild."""

import csv
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import TextIO


def rows_of(path: pathlib.Path, *, header: bool) -> Iterator[tuple[int, dict]]:
    """Each row of a .tsv, .csv or .jsonl: the number of its last line, fields by column.

    Args:
        header: whether the first line names the columns; else they are "1", "2", ...

    Raises:
        ValueError: not UTF-8, not of its kind, or a row with more fields than columns; a
            shorter one has `None` in place of what it lacks.
    """
    # Files made on Windows open with a byte-order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            if path.suffix == ".jsonl":
                yield from _objects(path, file)
            else:
                yield from _records(path, file, header)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 ({error}); convert it, e.g. with iconv."
            ) from None
        except csv.Error as error:
            raise ValueError(
                f"{path}: not readable as {path.suffix} ({error})."
            ) from None


def _objects(path: pathlib.Path, file: TextIO) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: a line must be an object such as "
                '{"text": "...", "label": "..."}.'
            )
        yield number, row


def _records(
    path: pathlib.Path, file: TextIO, header: bool
) -> Iterator[tuple[int, dict]]:
    # The field's .tsv files do not quote: a quote is part of the text.
    rows = (
        csv.reader(file)
        if path.suffix == ".csv"
        else csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    names: list[str] | None = None
    for row in rows:
        if not row:
            continue  # a blank line
        if names is None:
            names = row if header else [str(n) for n in range(1, len(row) + 1)]
            if header:
                continue
        if len(row) > len(names):
            what = "the header has columns" if header else "the first line"
            raise ValueError(
                f"{path}, line {rows.line_num}: more fields than {what} "
                f"({', '.join(names)}); mend the line."
            )
        # Rows are not lines: quoted breaks add some.
        yield rows.line_num, dict(itertools.zip_longest(names, row))
