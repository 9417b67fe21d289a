"""Speed and quality of the way from text to batches, beside the libraries of the field.

    python -m benchmarks.data [--source SPEC] [--quick] [--output DIR] [--num-workers N]

Prints every figure and writes them, with all repetitions, to
`benchmarks/results/data-MACHINE-DATE.json` and `.md`. Peers (extra `bench`) are measured
in the same run, in turns with ours; one that is not installed is named as left out.
Ctrl-C ends it and keeps what has been measured.
"""

import dataclasses
import pathlib
import signal
import sys
import tempfile
import time
from typing import Any

import tyro

from benchmarks.data_settings import DataSettings
from benchmarks.machine import describe_machine, num_cores
from benchmarks.results import describe_lines, section_table, write_results
from benchmarks.sections import Outcome, Section, found_by, run_section

_HERE = pathlib.Path(__file__).resolve().parent
_SHARED = _HERE.parents[1] / "shared" / "data"

_FOREIGN = (
    "Notes of google-research's data script are of other machines and runs: 3 MB of the "
    "same corpus, and for the statistics ten seeds pooled, with the range over seeds."
)
_QUICK = (
    "**Quick**: ten megabytes stand for the corpus. What is paid once (imports, workers, "
    "the blocks that files are padded to) weighs more than on the whole, which the "
    "promises are about."
)
_INTERRUPTED = "**Interrupted**: these are the figures up to then."
SECTIONS = (
    Section("sample", "Sample of the text", "benchmarks.data_text:write_sample"),
    Section(
        "vocabulary",
        "Training a SentencePiece vocabulary, all cores",
        "benchmarks.data_prepare:train_vocabulary",
    ),
    Section(
        "tokenize",
        "Tokenising, one core",
        "benchmarks.data_tokenize:tokenize",
        one_core=True,
        about="Text that no candidate has seen in every repetition, in turns; MB of "
        "UTF-8. Ours takes sentences, as `prepare` does.",
    ),
    *(
        Section(
            f"prepare-{kind}{'-all' * all_cores}",
            f"Preparing the corpus, {name}, {'all cores' if all_cores else 'one core'}",
            f"benchmarks.data_prepare:prepare_on_{'all_cores' if all_cores else 'one_core'}",
            (kind,),
            one_core=not all_cores,
            about="Reading, splitting, tokenising, writing and audit, MB of UTF-8 text."
            + ("" if all_cores else f" {_FOREIGN}"),
        )
        for kind, name in (
            ("wordpiece", "WordPiece"),
            ("sentencepiece", "SentencePiece"),
        )
        for all_cores in (False, True)
    ),
    Section(
        "prepare-peer",
        "Preparing a sample, WordPiece, one core, beside `datasets`",
        "benchmarks.data_prepare:prepare_beside_peer",
        one_core=True,
        about="Into a fresh folder each time, in turns; imports not counted.",
    ),
    Section(
        "pairs",
        "Pairs and rows of an epoch, one core",
        "benchmarks.data_rows:plan_epochs",
        one_core=True,
    ),
    Section(
        "statistics",
        "What the rows hold (T=128, one pair a row, at most 20 masks)",
        "benchmarks.data_rows:describe_pairs",
        about=_FOREIGN,
    ),
    Section(
        "loader",
        "Batches of T=512, one core, beside `datasets` + collator",
        "benchmarks.data_loader:load_beside_peers",
        one_core=True,
        about="Real tokens of batches of 64 rows in host memory, in turns. The collator "
        "draws masks there; ours are drawn on the device (last section).",
    ),
    Section(
        "loader-all",
        "Batches of T=512, all cores",
        "benchmarks.data_loader:load_on_all_cores",
    ),
    Section("steps", "Training steps", "benchmarks.data_steps:train_briefly"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures the way from text to batches, beside the libraries of the field."""

    source: str = f"files:{_SHARED}/enwiki/enwiki-2014-open.tar.xz"
    """As `bert-jax prepare` takes it."""
    vocab: pathlib.Path = _SHARED / "vocab" / "bert-base-uncased-vocab.txt"
    """The vocab.txt of WordPiece; text is put in lower case."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the result files."""
    quick: bool = False
    """Ten megabytes of the source take the place of the whole, two minutes in all."""
    num_workers: int | None = None
    """Processes of what runs on all cores; as many as there are cores by default."""
    only: tuple[str, ...] = ()
    """Names of sections to run; those that need what others made say so."""

    def settings(self, workdir: pathlib.Path) -> DataSettings:
        """The sizes that this run works with."""
        sizes: dict[str, Any] = {}
        if self.quick:
            sizes = {
                "repetitions": 3,
                "sample_bytes": 10_000_000,
                "peer_bytes": 3_000_000,
                "loader_tokens": 2_000_000,
                "num_steps": 20,
            }
        return DataSettings(
            workdir=workdir,
            source=self.source,
            vocab=self.vocab.resolve(),
            num_workers=self.num_workers or num_cores(),
            quick=self.quick,
            **sizes,
        )


def run(options: Options, settings: DataSettings) -> tuple[list[Outcome], bool]:
    """Runs the sections, printing each as it ends.

    Returns:
        What they found, and whether all of them came to their end.

    Raises:
        ValueError: `options.only` names a section that does not exist.
    """
    names = [section.name for section in SECTIONS]
    if unknown := sorted(set(options.only) - set(names)):
        raise ValueError(
            f"--only {' '.join(unknown)}: no such section; there are {', '.join(names)}."
        )
    chosen = [s for s in SECTIONS if not options.only or s.name in options.only]
    outcomes: list[Outcome] = []
    for number, section in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {section.title} ...", flush=True)
        started = time.perf_counter()
        try:
            found, complete = run_section(section, settings), True
        except KeyboardInterrupt:
            found, complete = found_by(section, settings), False
        outcomes.append(Outcome(section, *found, time.perf_counter() - started))
        print("\n".join(section_table(outcomes[-1])[1:]), flush=True)
        if not complete:
            return outcomes, False
    return outcomes, True


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    # A terminated run keeps what it has measured, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = describe_machine()
    print("\n".join(describe_lines(machine)), flush=True)
    with tempfile.TemporaryDirectory(prefix="bert_jax_benchmark_") as workdir:
        settings = options.settings(pathlib.Path(workdir))
        try:
            outcomes, complete = run(options, settings)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        paths = write_results(
            options.output,
            "data-quick" if options.quick else "data",
            machine,
            settings.to_json(),
            outcomes,
            remarks=[
                *([_QUICK] if options.quick else []),
                *([] if complete else [_INTERRUPTED]),
            ],
        )
    print("written:" if complete else "interrupted; written:", *paths)
    return 0 if complete else 130


if __name__ == "__main__":
    sys.exit(main())
