"""The rows of a table in which the columns that count hold something."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_jax.config import FileConfig
from bert_jax.data.labelled.tables import Table


class CompleteRow(NamedTuple):
    where: str
    """File and line, for messages."""
    values: list[Any]
    """Of the columns, in their order; none is empty, except where that was allowed."""


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
