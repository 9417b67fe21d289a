"""Runs each section of a benchmark in a process of its own.

Nothing that one section imports, allocates or spoils reaches the next, "one core" is
the system's own confinement, and peak memory is that of the section alone.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import traceback
from typing import Any, NamedTuple

from benchmarks.measure import (
    Figure,
    Findings,
    read_findings,
    stay_on_one_core,
)

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TERMINATE_SECS = 10.0
_SAID_SO = 3  # exit code of a section whose failure stands among its findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What all sections of `benchmarks.data` need to know."""

    workdir: pathlib.Path
    """Where the sample, the vocabularies and the prepared datasets lie."""
    source: str
    vocab: pathlib.Path
    vocab_size: int = 30_522
    """Pieces of the SentencePiece vocabulary."""
    num_workers: int
    quick: bool = False
    """Whether the sample takes the place of the source."""
    repetitions: int = 5
    sample_bytes: int = 15_000_000
    """Text of the sample; each repetition of tokenising takes its share of it."""
    peer_bytes: int = 8_000_000
    """Of the sample, what the peers prepare."""
    batch_size: int = 64
    """Rows of T=512 that the loaders give at once."""
    loader_tokens: int = 20_000_000
    """Real tokens of one repetition of our loader."""
    num_steps: int = 30
    """Updates of each of the short trainings."""
    model: str = "tiny"
    """Size of the model of those trainings, a name of `bert_jax.family`."""

    @property
    def sample(self) -> pathlib.Path:
        """The first documents of the source, as JSONL."""
        return self.workdir / "sample.jsonl"

    @property
    def corpus(self) -> str:
        """The source of whatever works on the whole text."""
        return f"files:{self.sample}" if self.quick else self.source

    def prepared(self, kind: str) -> pathlib.Path:
        """The dataset that the section of this name has prepared."""
        return self.workdir / f"prepared-{kind}"

    def findings(self, section: str) -> pathlib.Path:
        """What the section of this name has found."""
        return self.workdir / "findings" / f"{section}.jsonl"

    def tokenizer(self, kind: str) -> pathlib.Path:
        return self.workdir / f"tokenizer-{kind}"

    def to_json(self) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, pathlib.Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Settings":
        paths = {name: pathlib.Path(values[name]) for name in ("workdir", "vocab")}
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


class Outcome(NamedTuple):
    """What a section found."""

    section: Section
    figures: list[Figure]
    left_out: list[str]
    seconds: float


def run_section(section: Section, settings: Settings) -> tuple[list[Figure], list[str]]:
    """Runs a section to its end and reads what it found.

    Raises:
        KeyboardInterrupt: the section and all of its processes were ended; what it had
            found is still in its file.
    """
    request = settings.findings(section.name).with_suffix(".json")
    request.parent.mkdir(exist_ok=True)
    request.write_text(json.dumps({"section": section, "settings": settings.to_json()}))
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if section.one_core:
        environment["OMP_NUM_THREADS"] = "1"
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sections", str(request)],
        cwd=_ROOT,
        env=environment,
        # The terminal's Ctrl-C comes to this process alone, which ends the whole group.
        start_new_session=True,
    ) as process:
        try:
            code = process.wait()
        except BaseException:
            _end_group(process)
            raise
    figures, left_out = found_by(section, settings)
    if code not in (0, _SAID_SO):
        left_out.append(f"the rest of this section: it ended with exit code {code}")
    return figures, left_out


def found_by(section: Section, settings: Settings) -> tuple[list[Figure], list[str]]:
    """What a section has found so far."""
    return read_findings(settings.findings(section.name))


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_TERMINATE_SECS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def main() -> None:
    """Of the process of a section."""
    request = pathlib.Path(sys.argv[1])
    asked = json.loads(request.read_text())
    section, settings = (
        Section(*asked["section"]),
        Settings.from_json(asked["settings"]),
    )
    if section.one_core:
        stay_on_one_core()
    module, _, function = section.function.partition(":")
    with Findings(request.with_suffix(".jsonl")) as findings:
        try:
            run = getattr(importlib.import_module(module), function)
            run(settings, findings, *section.arguments)
        except Exception as error:
            findings.left_out("the rest of this section", error)
            traceback.print_exc()
            sys.exit(_SAID_SO)


if __name__ == "__main__":
    main()
