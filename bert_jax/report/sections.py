"""What a page is made of: headlines and sections of cards, shown in their order."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from bert_jax.report import formats


class Figure(NamedTuple):
    """One number at the top of the page."""

    value: str
    label: str
    note: str = ""


class Headline(NamedTuple):
    """The numbers that count of one subject: a run, a comparison or a dataset."""

    subject: str
    figures: Sequence[Figure]


class Row(NamedTuple):
    """One row of a table."""

    name: str
    cells: Sequence[str]
    marked: bool = False


class Origin(NamedTuple):
    """Where something came from."""

    name: str
    text: str
    sha256: str = ""
    note: str = ""


Fact = tuple[str, str]  # name, value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A card with a table; `columns` names the first column too."""

    kind: ClassVar = "table"
    title: str = ""
    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    wide: bool = False
    settings: bool = False
    """Whether the cells are settings; else they are numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """A card with lists of facts, each under its heading, in columns."""

    kind: ClassVar = "facts"
    lists: Sequence[tuple[str, Sequence[Fact]]]
    settings: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origins:
    """A card that says where things came from."""

    kind: ClassVar = "origins"
    rows: Sequence[Origin]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and its cards: charts, tables, facts, origins, examples."""

    title: str
    cards: Sequence[Any]
    intro: str = ""
    warnings: Sequence[str] = ()


def settings_card(config: dict[str, Any], heading: str) -> Facts:
    """All settings by group; those outside of any group stand under `heading`."""
    groups: dict[str, list[Fact]] = {heading: []}
    for name, value in formats.flatten(config).items():
        group, dot, rest = name.partition(".")
        key, field = (group, rest) if dot else (heading, name)
        groups.setdefault(key, []).append((field, value))
    return Facts(lists=list(groups.items()), settings=True)


def settings_table(
    configs: Sequence[dict[str, Any]], names: Sequence[str], heading: str
) -> Table:
    """Settings of several runs side by side; rows in which they differ are marked."""
    flat = [formats.flatten(config) for config in configs]
    rows = []
    for name in dict.fromkeys(name for config in flat for name in config):
        values = [config.get(name, "not set") for config in flat]
        rows.append(Row(name, values, marked=len(set(values)) > 1))
    return Table(columns=[heading, *names], rows=rows, wide=True, settings=True)
