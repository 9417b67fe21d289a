"""What a benchmark found: figures with all their repetitions, as a table and as JSON.

A result is two files in `results/`: `NAME-MACHINE-DATE.md` with tables of medians and
ranges, and `NAME-MACHINE-DATE.json` with every repetition, one figure a line.
"""

import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured quantity of one thing."""

    of: str
    """The thing: its row of the table."""
    what: str
    """The quantity: its column of the table."""
    unit: str
    values: tuple[float, ...]
    """One for each repetition, in the order of time."""
    at_most: float | None = None
    """Largest median that is correct; `None` where every value is."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_wrong(self) -> bool:
        # A comparison with NaN is false, so this counts NaN as wrong.
        return self.at_most is not None and not self.median <= self.at_most

    def to_text(self) -> str:
        """The median; the range too where there are several values, and the bound."""
        text = _number(self.median)
        if len(self.values) > 1:
            text += f" ({_number(min(self.values))}–{_number(max(self.values))})"
        if self.at_most is not None:
            verdict = "**wrong**, at most" if self.is_wrong else "at most"
            text += f" ({verdict} {_number(self.at_most)})"
        return text


class Table:
    """One part of a benchmark: its figures, and what it could not measure."""

    def __init__(self, title: str, about: str = "") -> None:
        """An empty table; `about` says how its figures are measured."""
        self.title, self.about = title, about
        self.figures: list[Figure] = []
        self.left_out: list[str] = []
        self._started = time.perf_counter()
        self.seconds = 0.0

    def add(self, of: str, what: str, unit: str, *values: float, **more: Any) -> None:
        """Adds a figure; `more` are further fields of `Figure`."""
        self.figures.append(Figure(of=of, what=what, unit=unit, values=values, **more))

    def leave_out(self, what: str, reason: object) -> None:
        """Says that something was not measured, and why."""
        self.left_out.append(f"{what}: {reason}")

    def end(self) -> None:
        """Stops the clock of this part and prints it."""
        self.seconds = time.perf_counter() - self._started
        print("\n".join(self.to_markdown()), flush=True)

    @property
    def is_correct(self) -> bool:
        return not any(figure.is_wrong for figure in self.figures)

    def to_markdown(self) -> list[str]:
        """Lines of text: a row for each thing, a column for each quantity."""
        lines = [f"### {self.title}", ""]
        if self.about:
            lines += [self.about, ""]
        if self.figures:
            columns = list(dict.fromkeys((f.what, f.unit) for f in self.figures))
            cells = {(f.of, f.what, f.unit): f.to_text() for f in self.figures}
            heads = [f"{what}, {unit}" if unit else what for what, unit in columns]
            lines += [f"| | {' | '.join(heads)} |", "|" + " --- |" * (1 + len(heads))]
            for of in dict.fromkeys(f.of for f in self.figures):
                row = [cells.get((of, *column), "") for column in columns]
                lines.append(f"| {of} | {' | '.join(row)} |")
            lines.append("")
        if self.left_out:
            lines += [f"- not measured: {text}" for text in self.left_out] + [""]
        return lines


class Report:
    """All parts of one run of a benchmark."""

    def __init__(
        self, name: str, machine: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        """A report without parts; `machine` is what `describe_machine` says."""
        self.name, self.machine, self.settings = name, machine, settings
        self.remarks: list[str] = []
        self.tables: list[Table] = []
        self._code = 0

    def end(self, code: int, remark: str) -> None:
        """Notes that the run ended early: its exit code, and a sentence for the reader."""
        self._code = code
        self.remarks.append(remark)

    @property
    def exit_code(self) -> int:
        """0, that of an early end, or 1 where something is not correct."""
        return self._code if self._code or self.is_correct else 1

    def table(self, title: str, about: str = "") -> Table:
        """Adds a part and announces it."""
        print(f"[{title} ...]", flush=True)
        self.tables.append(Table(title, about))
        return self.tables[-1]

    @property
    def is_correct(self) -> bool:
        return all(table.is_correct for table in self.tables)

    def write(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Writes the JSON and the Markdown file, in place of those of the same day."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.name}-{self.machine['machine']}-{self.machine['date']}"
        paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
        paths[0].write_text(self.to_json())
        paths[1].write_text("\n".join(self.to_markdown()).rstrip() + "\n")
        return paths

    def to_markdown(self) -> list[str]:
        """The whole Markdown file in lines."""
        lines = [f"# {self.name}, {self.machine['machine']}, {self.machine['date']}"]
        for text in (*describe_lines(self.machine), *self._warnings(), *self.remarks):
            lines += ["", text]
        lines.append("")
        for table in self.tables:
            lines += table.to_markdown()
        return lines

    def to_json(self) -> str:
        """The whole JSON file: one figure a line, values with five digits."""
        head = {
            "benchmark": self.name,
            "machine": self.machine,
            "settings": self.settings,
            "remarks": [*self._warnings(), *self.remarks],
        }
        lines = [f"{json.dumps(name)}: {json.dumps(x)}," for name, x in head.items()]
        tables = []
        for table in self.tables:
            about = {
                "title": table.title,
                "seconds": round(table.seconds, 1),
                "not_measured": table.left_out,
            }
            figures = ",\n".join(json.dumps(_compact(f)) for f in table.figures)
            tables.append(f'{json.dumps(about)[:-1]}, "figures": [\n{figures}\n]}}')
        body = ",\n".join(tables)
        return "{\n" + "\n".join(lines) + '\n"tables": [\n' + body + "\n]\n}\n"

    def _warnings(self) -> list[str]:
        if self.is_correct:
            return []
        return [
            "**Not correct on this machine**: a figure below is marked as wrong. The "
            "speeds are those of a wrong computation."
        ]


def describe_lines(machine: dict[str, Any]) -> list[str]:
    """What `describe_machine` found, in a few sentences."""
    lines = []
    device = machine["accelerator"]
    if device is not None and device["platform"] != "cpu":
        driver = f"; driver: {device['driver']}" if device.get("driver") else ""
        lines.append(f"{device['count']} x {device['kind']}{driver}.")
    flags = f" ({', '.join(machine['cpu_flags'])})" if machine["cpu_flags"] else ""
    versions = [f"{name} {x}" for name, x in machine["versions"].items() if x]
    lines += [
        f"{machine['cores']} cores of {machine['cpu']}{flags}, {machine['memory_gib']} "
        f"GiB, {machine['system']}, commit {machine['commit'] or 'unknown'}.",
        f"Python {machine['python']}, {', '.join(versions)}.",
    ]
    load = machine["load_before"]
    if load is not None and load > 0.5:
        lines.append(
            f"**Other work was running**: the load was {load:.1f} before the start, so "
            "the figures are lower than those of a quiet machine."
        )
    return lines


def _compact(figure: Figure) -> dict[str, Any]:
    fields = dataclasses.asdict(figure)
    fields["values"] = [float(f"{value:.5g}") for value in figure.values]
    return {name: value for name, value in fields.items() if value is not None}


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
