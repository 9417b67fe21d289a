"""What a benchmark found: figures with all their repetitions, as a table and as JSON.

A result is two files in `results/`: `NAME-MACHINE-DATE.md` with tables of medians and
ranges, and `NAME-MACHINE-DATE.json` with every repetition.
"""

import dataclasses
import json
import pathlib
import statistics
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON; values have five digits."""
        fields = dataclasses.asdict(self)
        fields["values"] = [float(f"{value:.5g}") for value in self.values]
        return fields


class Table:
    """One part of a benchmark: its figures, and what it could not measure."""

    def __init__(self, title: str, about: str = "") -> None:
        """An empty table; `about` says how its figures are measured."""
        self.title, self.about = title, about
        self.figures: list[Figure] = []
        self.left_out: list[str] = []

    def add(self, of: str, what: str, unit: str, *values: float, **more: Any) -> None:
        """Adds a figure; `more` are further fields of `Figure`."""
        self.figures.append(Figure(of=of, what=what, unit=unit, values=values, **more))

    def leave_out(self, what: str, reason: object) -> None:
        """Says that something was not measured, and why."""
        self.left_out.append(f"{what}: {reason}")

    def end(self) -> None:
        """Prints the table."""
        print(self.to_markdown(), flush=True)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = [figure.to_dict() for figure in self.figures]
        return {
            "title": self.title,
            "not_measured": self.left_out,
            "figures": figures,
        }

    def to_markdown(self) -> str:
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
        return "\n".join(lines)


class Report:
    """All parts of one run of a benchmark."""

    def __init__(
        self,
        name: str,
        machine: dict[str, Any],
        about: str,
        settings: dict[str, Any],
        folder: pathlib.Path,
    ) -> None:
        """A report without parts.

        Args:
            name: of the benchmark; files begin with it.
            machine: what `machine.describe_machine` says.
            about: the machine in sentences.
            settings: what the user chose, as JSON can hold it.
            folder: where the files are written.
        """
        self.name, self.machine, self.settings = name, machine, settings
        self.folder = folder
        self.remarks = [about]
        self.tables: list[Table] = []
        self._code = 0

    def stop(self, code: int, remark: str) -> None:
        """Notes that the run ended early: its exit code, and a sentence for the reader."""
        self._code = code
        self.remarks.append(remark)

    @property
    def is_correct(self) -> bool:
        return not any(f.is_wrong for table in self.tables for f in table.figures)

    @property
    def exit_code(self) -> int:
        """0, that of an early end, or 1 where something is not correct."""
        return self._code if self._code or self.is_correct else 1

    def table(self, title: str, about: str = "") -> Table:
        """Adds a part and announces it; the parts before it are written."""
        if self.tables:
            self.write()
        print(f"[{title} ...]", flush=True)
        self.tables.append(Table(title, about))
        return self.tables[-1]

    def write(self) -> list[pathlib.Path]:
        """Writes the JSON and the Markdown file, in place of those of the same day."""
        wrong = (
            "**Not correct on this machine**: a figure below is marked as wrong. The "
            "speeds are those of a wrong computation."
        )
        if not self.is_correct and wrong not in self.remarks:
            self.remarks.append(wrong)
        self.folder.mkdir(parents=True, exist_ok=True)
        machine, date = self.machine["machine"], self.machine["date"]
        written = {
            "benchmark": self.name,
            "machine": self.machine,
            "settings": self.settings,
            "remarks": self.remarks,
            "tables": [table.to_dict() for table in self.tables],
        }
        parts = [
            f"# {self.name}, {machine}, {date}\n",
            *map("{}\n".format, self.remarks),
        ]
        parts += [table.to_markdown() for table in self.tables]
        stem = f"{self.name}-{machine}-{date}"
        paths = [self.folder / f"{stem}.json", self.folder / f"{stem}.md"]
        paths[0].write_text(json.dumps(written) + "\n")
        paths[1].write_text("\n".join(parts).rstrip() + "\n")
        return paths


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
