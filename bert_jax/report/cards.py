"""What a page is made of: parts with headlines and sections of cards."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from bert_jax.report.runs import Run


class Figure(NamedTuple):
    """One number at the top of the page."""

    value: str
    label: str
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A card with a table, whose cells may have several lines."""

    kind: ClassVar = "table"
    title: str
    columns: Sequence[str] = ()
    """Headings, that of the first column included; none where the rows say it all."""
    rows: Sequence[Sequence[str]]
    caption: str = ""
    wide: bool = True
    cells: Literal["numbers", "texts", "settings"] = "numbers"
    """What the cells hold. The rows of settings are marked where their cells differ."""
    folded: bool = False
    """Whether only the title is seen at first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, warnings, and cards: charts, tables, examples."""

    title: str
    cards: Sequence[Any]
    warnings: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """All that the page says of one subject: a run, a comparison or a text."""

    subject: str
    figures: Sequence[Figure]
    """The numbers that count. They stand under this subject alone."""
    sections: Sequence[Section]
    settings: Sequence[Table]
    runs: Mapping[str, Run] = dataclasses.field(default_factory=dict)
    """The runs by their names in this part."""


def settings_table(title: str, configs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Settings of runs side by side.

    Args:
        title: heading of the table.
        configs: settings as JSON values, by the names of the runs.
    """
    flat = [_flatten(config) for config in configs.values()]
    rows = [
        [name, *(config.get(name, "not set") for config in flat)]
        for name in dict.fromkeys(name for config in flat for name in config)
    ]
    columns = ["Setting", *configs]
    return Table(title=title, columns=columns, rows=rows, cells="settings", folded=True)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and JSON values; texts stand without quotes."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            text = isinstance(value, str) and value
            flat[prefix + name] = text or json.dumps(value, ensure_ascii=False)
    return flat
