"""Runs each section of a benchmark in a process of its own.

Nothing that one section imports, allocates or spoils reaches the next, "one core" is
the system's own confinement, and peak memory is that of the section alone.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import traceback
from typing import Any, NamedTuple, Self

from benchmarks.measure import (
    Figure,
    Findings,
    read_findings,
    stay_on_one_core,
)
from bert_jax.cli import HUGE_PAGES

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TERMINATE_SECS = 3.0
_SAID_SO = 3  # exit code of a section whose failure stands among its findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What all sections of a benchmark need to know; each benchmark adds its own."""

    workdir: pathlib.Path
    """Where sections leave what others use."""

    def findings(self, section: str) -> pathlib.Path:
        """What the section of this name has found."""
        return self.workdir / "findings" / f"{section}.jsonl"

    def to_json(self) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, pathlib.Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        paths = {
            field.name: pathlib.Path(values[field.name])
            for field in dataclasses.fields(cls)
            if field.type is pathlib.Path
        }
        return cls(**values | paths)


class Section(NamedTuple):
    """A function that takes settings, findings and these arguments."""

    name: str
    title: str
    function: str
    """`module:function`."""
    arguments: tuple[Any, ...] = ()
    one_core: bool = False
    about: str = ""
    """How it is measured, for the reader of the table."""
    huge_pages: bool = False
    """Whether it has the allocator that the command line gives itself."""


class Outcome(NamedTuple):
    """What a section found."""

    section: Section
    figures: list[Figure]
    left_out: list[str]
    seconds: float


def run_section(
    section: Section, settings: Settings, *, seconds: float | None = None
) -> tuple[list[Figure], list[str]]:
    """Runs a section to its end and reads what it found.

    Args:
        seconds: after which it and all of its processes are ended; what it had found
            is kept, and the rest is left out for lack of time. `None` waits.

    Raises:
        KeyboardInterrupt: the section and all of its processes were ended; what it had
            found is still in its file.
    """
    request = settings.findings(section.name).with_suffix(".json")
    request.parent.mkdir(exist_ok=True)
    kind = type(settings)
    request.write_text(
        json.dumps(
            {
                "section": section,
                "kind": f"{kind.__module__}:{kind.__qualname__}",
                "settings": settings.to_json(),
            }
        )
    )
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if section.one_core:
        environment["OMP_NUM_THREADS"] = "1"
    if section.huge_pages:
        environment.setdefault("GLIBC_TUNABLES", HUGE_PAGES)
    code = None
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sections", str(request)],
        cwd=_ROOT,
        env=environment,
        # The terminal's Ctrl-C comes to this process alone, which ends the whole group.
        start_new_session=True,
    ) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Also after a good end: a section that died leaves its workers behind.
            end_group(process)
    figures, left_out = found_by(section, settings)
    if code is None:
        left_out.append(f"the rest of this section: time, it was given {seconds:.0f} s")
    elif code not in (0, _SAID_SO):
        left_out.append(f"the rest of this section: it ended with exit code {code}")
    return figures, left_out


def found_by(section: Section, settings: Settings) -> tuple[list[Figure], list[str]]:
    """What a section has found so far."""
    return read_findings(settings.findings(section.name))


def end_group(process: "subprocess.Popen[Any]") -> None:
    """Ends a process that leads its own group, and all that it has started."""
    if process.poll() is None:
        # Stopped processes hear nothing until they go on.
        for number in (signal.SIGTERM, signal.SIGCONT):
            _signal_group(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_SECS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: "subprocess.Popen[Any]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def main() -> None:
    """Of the process of a section."""
    request = pathlib.Path(sys.argv[1])
    asked = json.loads(request.read_text())
    section = Section(*asked["section"])
    module, _, kind = asked["kind"].partition(":")
    settings = getattr(importlib.import_module(module), kind).from_json(
        asked["settings"]
    )
    if section.one_core:
        stay_on_one_core()
    module, _, function = section.function.partition(":")
    # Who is told to end may still say what was found.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Findings(request.with_suffix(".jsonl")) as findings:
        try:
            run = getattr(importlib.import_module(module), function)
            run(settings, findings, *section.arguments)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGTERM)
        except Exception as error:
            findings.left_out("the rest of this section", error)
            traceback.print_exc()
            sys.exit(_SAID_SO)


if __name__ == "__main__":
    main()
