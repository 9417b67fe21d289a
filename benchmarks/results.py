"""The figures of a run as a table, and the files that keep them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Figure
from benchmarks.sections import Outcome


def figure_line(figure: Figure) -> str:
    """One row: what, median with range, promise, note."""
    return f"| {figure.what} | {_value(figure)} | {_promise(figure)} | {figure.note} |"


def section_table(outcome: Outcome) -> list[str]:
    """A section as lines of Markdown."""
    section = outcome.section
    lines = [f"### {section.title}", ""]
    if section.about:
        lines += [section.about, ""]
    if compared := [figure for figure in outcome.figures if figure.of]:
        lines += [*comparison_table(compared), ""]
    if alone := [figure for figure in outcome.figures if not figure.of]:
        lines += ["| figure | median (range) | promised | note |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [*map(figure_line, alone), ""]
    if outcome.left_out:
        lines += [f"- **left out** {what}" for what in outcome.left_out] + [""]
    return lines


def comparison_table(figures: Sequence[Figure]) -> list[str]:
    """A row for each thing that has figures, a column for each kind of figure."""
    kinds = list(dict.fromkeys((f.what, f.unit) for f in figures))
    cells = {(f.of, f.what, f.unit): _value(f, unit=False) for f in figures}
    header = ["", *(f"{what}, {unit}" if unit else what for what, unit in kinds)]
    return [
        f"| {' | '.join(header)} |",
        f"|{' --- |' * len(header)}",
        *(
            f"| {' | '.join([of, *(cells.get((of, *kind), '') for kind in kinds)])} |"
            for of in dict.fromkeys(f.of for f in figures)
        ),
    ]


def promises_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Every promised figure, kept or not; nothing where none was measured."""
    rows = [
        f"| {outcome.section.title} | {figure.what} | {_value(figure)} | "
        f"{_promise(figure)} |"
        for outcome in outcomes
        for figure in outcome.figures
        if figure.met is not None
    ]
    header = ["| measured | figure | median (range) | promised |"]
    return [*header, "| --- | --- | --- | --- |", *rows, ""] if rows else []


def write_results(
    folder: pathlib.Path,
    name: str,
    machine: dict[str, Any],
    settings: dict[str, Any],
    outcomes: Sequence[Outcome],
    *,
    remarks: Sequence[str],
    stem: str | None = None,
    summary: Sequence[str] = (),
) -> list[pathlib.Path]:
    """Writes `NAME-MACHINE-DATE.json` and the same as `.md`; returns both paths.

    Args:
        name: of the benchmark.
        machine: of `describe_machine`.
        settings: what the run was asked for.
        remarks: what a reader must know of this run.
        stem: of the files, in place of `NAME-MACHINE-DATE`.
        summary: lines of Markdown before the sections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = stem or f"{name}-{machine['machine']}-{machine['date']}"
    content = {
        "benchmark": name,
        "remarks": list(remarks),
        "machine": machine,
        "settings": settings,
        "sections": [
            {
                "name": outcome.section.name,
                "title": outcome.section.title,
                "seconds": outcome.seconds,
                "figures": [
                    {**dataclasses.asdict(f), "median": f.median, "met": f.met}
                    for f in outcome.figures
                ],
                "left_out": outcome.left_out,
            }
            for outcome in outcomes
        ],
    }
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    lines = [f"# {name}: {machine['cpu']}, {machine['date']}", ""]
    for line in (*describe_lines(machine), *remarks):
        lines += [line, ""]
    lines += summary
    for outcome in outcomes:
        if outcome.figures or outcome.left_out:
            lines += section_table(outcome)
    paths[1].write_text("\n".join(lines).rstrip() + "\n")
    return paths


def describe_lines(machine: dict[str, Any]) -> list[str]:
    """Machine and versions in a few sentences."""
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items() if version
    )
    numbers = f"family {machine['cpu_family']}, model {machine['cpu_model']}"
    cpu = f"{machine['cpu']} ({', '.join([numbers, *machine['cpu_flags']])})"
    lines = [
        f"{machine['cores']} cores of {cpu}, {machine['memory_gib']} GiB, "
        f"{machine['system']}, commit {machine['commit'] or 'unknown'}.",
        f"Python {machine['python']}, {versions}.",
    ]
    found = machine["accelerator"]
    if found is not None and found["platform"] != "cpu":
        said = found["driver"] or "driver unknown"
        number = found["num_devices"]
        count = f"one of {number} x" if number > 1 else "one"
        lines.insert(0, f"{count} {found['kind']}: {said}; {found['compiler']}.")
    load = machine["load_before"]
    if load is not None and load > 0.5:
        lines.append(
            f"**Other work was running**: load {load:.1f} before the start; the figures "
            "are lower than those of a quiet machine."
        )
    return lines


def _value(figure: Figure, *, unit: bool = True) -> str:
    text = f"{_number(figure.median)} {figure.unit if unit else ''}".rstrip()
    if len(figure.values) > 1:
        low, high = _number(min(figure.values)), _number(max(figure.values))
        text += f" ({low}–{high})"
    return text


def _promise(figure: Figure) -> str:
    bounds = []
    if figure.at_least is not None:
        bounds.append(f"≥ {_number(figure.at_least)}")
    if figure.at_most is not None:
        bounds.append(f"≤ {_number(figure.at_most)}")
    if not bounds:
        return ""
    return f"{', '.join(bounds)}: {'kept' if figure.met else '**missed**'}"


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
