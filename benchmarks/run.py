"""How fast bert_jax trains on this machine, beside PyTorch, correctness first.

    python -m benchmarks.run [--quick] [--only SECTION ...] [--output DIR] [--minutes 9]

Finds out whether this is a CPU, an NVIDIA GPU or a TPU, and never takes longer than told:
what does not fit is named as left out, as is every library that is not installed. Prints
every figure and writes them to `benchmarks/results/MACHINE-DATE.json` and `.md`. Ctrl-C
ends it and keeps what has been measured.
"""

import dataclasses
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

import tyro

from benchmarks.accelerator import (
    Accelerator,
    DetectionError,
    find_accelerator,
    use_only,
)
from benchmarks.machine import describe_machine
from benchmarks.results import (
    describe_lines,
    promises_table,
    section_table,
    write_results,
)
from benchmarks.run_sections import CORRECTNESS, TimedSection, sections_of
from benchmarks.run_settings import RunSettings
from benchmarks.sections import Outcome, found_by, run_section

_HERE = pathlib.Path(__file__).resolve().parent
# To end a section that does not end itself, and to write the files.
_RESERVE_SECS = 8.0
_KILL_SECS = 4.0
_QUICK_MINUTES = 3.0
_INTERRUPTED = "**Interrupted**: these are the figures up to then."
_INCORRECT = (
    "**Not correct on this machine**: the section on correctness says what disagrees. The "
    "speeds below are those of a wrong computation."
)
_QUICK = "**Quick**: the most important candidates only, in a third of the time."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures training on this machine, beside PyTorch."""

    quick: bool = False
    """The most important candidates of the smallest model only, in three minutes."""
    only: tuple[str, ...] = ()
    """Names of sections to run; a wrong name lists those of this machine."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the result files."""
    minutes: float = 9.0
    """Most that the whole run takes."""


def choose(platform: str, options: Options) -> list[TimedSection]:
    """The sections of a run.

    Raises:
        ValueError: `options.only` names one that this platform does not have.
    """
    sections = sections_of(platform)
    names = [section.name for section in sections]
    if unknown := sorted(set(options.only) - set(names)):
        raise ValueError(
            f"--only {' '.join(unknown)}: no such section on a {platform}; there are "
            f"{', '.join(names)}."
        )
    if options.only:
        return [section for section in sections if section.name in options.only]
    return [section for section in sections if section.quick or not options.quick]


def run(
    sections: Sequence[TimedSection], settings: RunSettings, ends_at: float
) -> tuple[list[Outcome], bool]:
    """Runs the sections, printing each as it ends.

    A section may take its share of the time left, by its weight among those to come; what
    it does not use is theirs.

    Args:
        ends_at: `time.time()` by which all of them have ended.

    Returns:
        What they found, and whether none of them was interrupted.
    """
    outcomes: list[Outcome] = []
    for number, section in enumerate(sections):
        print(f"[{number + 1}/{len(sections)}] {section.title} ...", flush=True)
        started = time.time()
        weights = [coming.weight for coming in sections[number:]]
        seconds = (ends_at - started) * section.weight / sum(weights)
        complete = True
        if seconds < section.least_secs:
            left_out = f"all of it: time, {max(0.0, seconds):.0f} s were left for it"
            outcome = Outcome(section.section, [], [left_out], 0.0)
        else:
            mine = dataclasses.replace(settings, ends_at=started + seconds - _KILL_SECS)
            try:
                found = run_section(section.section, mine, seconds=seconds)
            except KeyboardInterrupt:
                found, complete = found_by(section.section, mine), False
            outcome = Outcome(section.section, *found, time.time() - started)
        outcomes.append(outcome)
        print("\n".join(section_table(outcome)[1:]), flush=True)
        if not complete:
            return outcomes, False
    return outcomes, True


def is_correct(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing that was checked disagrees."""
    return not any(
        figure.met is False
        for outcome in outcomes
        if outcome.section.name == CORRECTNESS
        for figure in outcome.figures
    )


def stem_of(machine: str, date: str, options: Options) -> str:
    """Name of the result files; a part of a run never takes the place of a whole one."""
    parts = ["quick"] * options.quick + [machine, date, *options.only]
    return "-".join(parts)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    minutes = min(options.minutes, _QUICK_MINUTES) if options.quick else options.minutes
    ends_at = time.time() + 60.0 * minutes - _RESERVE_SECS
    # A terminated run keeps what it has measured, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = find_accelerator()
        sections = choose(found.platform, options)
    except (DetectionError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    use_only(found)
    return _measure(found, sections, options, ends_at)


def _measure(
    found: Accelerator,
    sections: Sequence[TimedSection],
    options: Options,
    ends_at: float,
) -> int:
    machine = describe_machine(found)
    print("\n".join(describe_lines(machine)), flush=True)
    with tempfile.TemporaryDirectory(prefix="bert_jax_benchmark_") as workdir:
        settings = RunSettings(
            workdir=pathlib.Path(workdir),
            platform=found.platform,
            device_kind=found.kind,
            memory_bytes=found.memory_bytes or 2**30 * (machine["memory_gib"] or 0),
            quick=options.quick,
        )
        outcomes, complete = run(sections, settings, ends_at)
        correct = is_correct(outcomes)
        paths = write_results(
            options.output,
            "run",
            machine,
            settings.to_json(),
            outcomes,
            remarks=[
                *([] if correct else [_INCORRECT]),
                *([_QUICK] if options.quick else []),
                *([] if complete else [_INTERRUPTED]),
            ],
            stem=stem_of(machine["machine"], machine["date"], options),
            summary=["### What is promised", "", *table]
            if (table := promises_table(outcomes))
            else [],
        )
    print("written:" if complete else "interrupted; written:", *paths)
    if not correct:
        print(_INCORRECT, file=sys.stderr)
    return 130 if not complete else 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
