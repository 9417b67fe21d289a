"""Tables of labelled text as they are in the wild: .tsv, .csv, .txt, .jsonl and .parquet."""

import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bert_jax.config import FileConfig
from bert_jax.data.json_text import loads
from bert_jax.data.labelled.decoding import read_text

SUFFIXES = (".tsv", ".csv", ".txt", ".jsonl", ".parquet")
DELIMITERS = ("\t", ",", ";", "|")
_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_LONGEST_FIELD = 2**31 - 1
# What says how lines are cut into fields, and the defaults.
_SIGNS: dict[str, Any] = {"header": True, "delimiter": None, "quotes": "auto"}


class Row(NamedTuple):
    place: str
    """Where it begins, such as "line 3"."""
    fields: dict[str, Any]
    """By column; a short row has `None` in place of what it lacks."""


class Table(NamedTuple):
    path: pathlib.Path
    columns: tuple[str, ...]
    rows: list[Row]
    how: str
    """How the file was read, in words."""
    warnings: tuple[str, ...] = ()


class CompleteRow(NamedTuple):
    where: str
    """File and line, for messages."""
    values: list[Any]
    """Of the columns, in their order; none is empty, except where that was allowed."""


def read_table(path: pathlib.Path, cfg: FileConfig) -> Table:
    """Reads all rows of a file.

    Raises:
        ValueError: the file is not of its kind, names a column twice, or has a row with
            more fields than columns; the line is named.
    """
    kind = path.suffix.lower()
    refuse_signs(path, cfg)
    if kind == ".parquet":
        return _parquet(path)
    decoded = read_text(path, cfg.encoding)
    if kind == ".jsonl":
        table = _objects(path, decoded.text)
    else:
        table = _records(path, decoded.text, cfg)
    how = ", ".join(filter(None, [decoded.encoding, table.how]))
    return table._replace(how=how, warnings=decoded.warnings)


def _names_its_columns(path: pathlib.Path) -> bool:
    # Of a text that is too long for a name, `pathlib` would raise an error.
    return path.suffix.lower() in (".jsonl", ".parquet") or os.path.isdir(path)


def refuse_signs(path: pathlib.Path, cfg: FileConfig) -> None:
    """Raises ValueError if settings for the lines of a file would be ignored."""
    for name, default in _SIGNS.items() if _names_its_columns(path) else ():
        if getattr(cfg, name) != default:
            flag = "no-header" if name == "header" else name
            kind = "folder" if path.is_dir() else path.suffix.lower()
            raise ValueError(
                f"{path}: {type(cfg).__name__}.{name}={getattr(cfg, name)!r} would be "
                f"ignored, since a {kind} names its columns and separates its fields "
                f"itself; leave --{flag} out."
            )


def without_signs(cfg: FileConfig, path: pathlib.Path) -> FileConfig:
    """`cfg` without the settings that reading this path would ignore.

    It is for what a run says of the files that it was trained on, which may be of another
    kind.
    """
    return dataclasses.replace(cfg, **_SIGNS) if _names_its_columns(path) else cfg


def complete_rows(
    table: Table,
    columns: Sequence[str],
    cfg: FileConfig,
    *,
    may_be_empty: Sequence[str] = (),
) -> tuple[list[CompleteRow], int]:
    """The complete rows, and the number of the others, which `skip_incomplete` leaves out.

    Raises:
        ValueError: a row lacks something and `cfg` does not skip it, or no row is left.
    """
    rows = []
    for row in table.rows:
        where = f"{table.path}, {row.place}"
        values = [row.fields.get(name) for name in columns]
        empty = [
            name
            for name, value in zip(columns, values, strict=True)
            if _is_empty(value) and name not in may_be_empty
        ]
        if not empty:
            rows.append(CompleteRow(where, values))
        elif not cfg.skip_incomplete:
            raise ValueError(
                f"{where}: nothing in column {empty[0]!r}; mend the file, or pass "
                "--skip-incomplete to leave out rows that lack something."
            )
    if not rows:
        raise ValueError(
            f"{table.path} holds no row with something in each of the columns "
            f"{', '.join(columns)}; expected some."
        )
    return rows, len(table.rows) - len(rows)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _parquet(path: pathlib.Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not Parquet, or damaged ({error}); check that the file is whole."
        ) from None
    names = tuple(table.column_names)
    _refuse_doubled(path, "the schema", names)
    values = [column.to_pylist() for column in table.columns]
    rows = [
        Row(f"row {number}", dict(zip(names, fields, strict=True)))
        for number, fields in enumerate(zip(*values, strict=True), 1)
    ]
    return Table(path, names, rows, "Parquet")


def _objects(path: pathlib.Path, text: str) -> Table:
    rows: list[Row] = []
    names: dict[str, None] = {}

    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if not line.strip():
            continue

        def whole(pairs: list[tuple[str, Any]], number: int = number) -> dict[str, Any]:
            _refuse_doubled(path, f"line {number}", tuple(name for name, _ in pairs))
            return dict(pairs)

        try:
            row = loads(line, object_pairs_hook=whole)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error.msg} at character {error.colno}); "
                "a line must be one whole object. Mend the line."
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: a line must be an object such as "
                '{"text": "...", "label": "..."}.'
            )
        names.update(dict.fromkeys(row))
        rows.append(Row(f"line {number}", row))
    return Table(path, tuple(names), rows, "one JSON object a line")


def _records(path: pathlib.Path, text: str, cfg: FileConfig) -> Table:
    delimiter = cfg.separator or _delimiter(path, text, header=cfg.header)
    quoted = _is_quoted(text, delimiter, cfg)
    rows: list[Row] = []
    names: tuple[str, ...] | None = None
    for line, fields in _cut(path, text, delimiter, quoted=quoted):
        if line == 1 and fields == ["sep=", ""]:
            continue  # so Excel is told the delimiter
        if names is None and cfg.header:
            names = tuple(name.strip() for name in fields)
            _refuse_doubled(path, f"the header in line {line}", names)
            continue
        names = names or tuple(str(n) for n in range(1, len(fields) + 1))
        while len(fields) > len(names) and not fields[-1]:
            fields.pop()  # spreadsheets end rows with delimiters
        if len(fields) > len(names):
            what = "the header has columns" if cfg.header else "the first line"
            raise ValueError(
                f"{path}, line {line}: more fields ({len(fields)}) than {what} "
                f"({', '.join(names)}); mend the line"
                + (", or quote the field that holds a delimiter." if quoted else ".")
            )
        if cfg.header and tuple(field.strip() for field in fields) == names:
            raise ValueError(
                f"{path}, line {line} repeats the header ({', '.join(names)}), as in "
                "files that were joined; remove the line."
            )
        rows.append(Row(f"line {line}", dict(itertools.zip_longest(names, fields))))
    how = f"fields between {_NAMES.get(delimiter, repr(delimiter))}"
    if '"' in text:
        how += ", quotes enclose fields" if quoted else ", quotes are part of the text"
    if quoted:
        num_broken = sum("\n" in (x or "") for row in rows for x in row.fields.values())
        how += f", {num_broken:,} fields with line breaks" if num_broken else ""
    return Table(path, names or (), rows, how)


def _cut(
    path: pathlib.Path, text: str, delimiter: str, *, quoted: bool
) -> Iterator[tuple[int, list[Any]]]:
    """The fields of each row that is not blank, and the line in which it begins."""
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        # As in `text, label`: a quote behind the blank opens a field.
        skipinitialspace=quoted and f"{delimiter} " in first_line(text),
        strict=True,
    )
    line = 1
    try:
        for fields in rows:
            if fields:
                yield line, fields
            line = rows.line_num + 1  # rows are not lines: quoted breaks add some
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: the quotes of the row that begins here do not close as "
            f"they should ({error}). A quote inside a quoted field must be doubled. Mend "
            "the line, or pass --quotes text if quotes are part of the text."
        ) from None


def _delimiter(path: pathlib.Path, text: str, *, header: bool) -> str:
    """That of the file's kind, or the only other one in a header without it."""
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    first = first_line(text)
    others = [sign for sign in DELIMITERS if sign in first]
    return others[0] if header and usual not in first and len(others) == 1 else usual


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return text.lstrip("\r\n").partition("\n")[0].partition("\r")[0]


def _is_quoted(text: str, delimiter: str, cfg: FileConfig) -> bool:
    """The rule of `FileConfig.quotes`."""
    if cfg.quotes != "auto":
        return cfg.quotes == "csv"
    if delimiter in ",;":
        return True
    if '"' not in text:
        return False
    # A quoted field may hold a delimiter or a line break only if the lines, cut without
    # regard to quotes, have no common number of fields.
    lines = [x for x in io.StringIO(text, newline="") if x.strip("\r\n")]
    regular = len({line.count(delimiter) for line in lines}) == 1
    sign = re.escape(delimiter)
    inside = rf'(?:[^"\r\n{sign}]|"")*+' if regular else r'(?:[^"]|"")*+'
    field = rf'(?<![^{sign}\r\n])"{inside}"(?![^{sign}\r\n])'
    return '"' not in re.sub(field, "", text)


def _refuse_doubled(path: pathlib.Path, where: str, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        if name and name in names[:number]:
            raise ValueError(
                f"{path}: {where} names the column {name!r} twice; rename or remove one."
            )
