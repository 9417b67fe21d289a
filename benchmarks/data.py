"""Speed of the way from text to batches, beside the libraries of the field.

    python -m benchmarks.data [--source SPEC] [--minutes 8] [--only PART ...] [--output DIR]

Measures tokenising, preparing and loading, each beside its peers in turns, and writes
`data-MACHINE-DATE.md` and `.json`. Peers come with the extra `bench`; one that is not
installed, and what the time is too short for, is named. Ctrl-C keeps the tables that are complete.
"""

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from benchmarks.machine import RESULTS, num_cores, start_report
from benchmarks.results import Report, Table
from benchmarks.turns import ROUNDS, Candidate, Clock, Measured, measure, ratios
from bert_jax.config import TokenizerOptions

_KINDS: dict[str, Any] = {"WordPiece": "wordpiece", "SentencePiece": "unigram"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures the way from text to batches."""

    source: str = "docs:"
    """Text, as `bert-jax prepare` takes it. Default: installed documentation."""
    minutes: float = 8.0
    """Most that the whole run takes. What does not fit is named as not measured."""
    only: tuple[str, ...] = ()
    """Parts to run: tokenize, prepare, stages, or loader, which needs prepare. Default: all."""
    output: pathlib.Path = RESULTS
    """Folder of the two result files."""
    sample_bytes: int = 15_000_000
    """Bytes of the text that are used, from its beginning."""
    vocab_size: int = 30_522
    """Pieces of the vocabularies that are trained."""


def make_inputs(options: Options, folder: pathlib.Path) -> None:
    """Writes the sample of the text and both tokenizers."""
    from benchmarks.data_runners import write_sample
    from bert_jax.data.tokenizers.tokenizer_training import train_tokenizer

    sample = folder / "sample.jsonl"
    write_sample(options.source, sample, options.sample_bytes)
    for name, kind in _KINDS.items():
        settings = TokenizerOptions(
            kind=kind, vocab_size=options.vocab_size, num_threads=num_cores()
        )
        train_tokenizer(f"files:{sample}", folder / name, settings)


def tokenize(folder: pathlib.Path, report: Report, clock: Clock) -> None:
    table = report.table(
        "Tokenising, one core",
        "In every turn, text that no candidate has seen. Ours encodes sentences, as "
        "`prepare` does, by a faster library where there is one; bare is the "
        "library that defines the ids, which encodes whole documents.",
    )
    for number, kind in enumerate(_KINDS):
        candidates = [
            _candidate(folder, f"{kind}, {way}", "Tokenize", way=way, num_parts=ROUNDS)
            for way in ("ours", "bare")
        ]
        measured = measure(candidates, table, clock.part((1 + number) / len(_KINDS)))
        add_rates(table, measured, "bytes")
    table.end()


def prepare(folder: pathlib.Path, report: Report, clock: Clock) -> None:
    table = report.table(
        "Preparing",
        "All work from text to files, into a fresh folder in every turn; `datasets` "
        "tokenises and groups into blocks. Imports are not counted. One worker has one "
        "core.",
    )

    def ours(workers: int) -> Candidate:
        name = f"WordPiece, ours, {workers} worker{'s' * (workers > 1)}"
        return _candidate(
            folder, name, "Prepare", one_core=workers == 1, num_workers=workers
        )

    candidates = [
        ours(1),
        _candidate(folder, "WordPiece, datasets", "PrepareWithDatasets"),
        *([ours(num_cores())] if num_cores() > 1 else []),
    ]
    measured = measure(candidates, table, clock)
    add_rates(table, measured, "bytes")
    table.end()


def stages(folder: pathlib.Path, report: Report, clock: Clock) -> None:
    from benchmarks.data_runners import STAGES

    table = report.table(
        "Preparing, stage by stage",
        "What a worker does with the documents of its shard, on one core: the bytes of "
        "text that go through each stage in a second. Not in it: the start, the check of "
        "the encoding, and what comes after the shards.",
    )
    candidates = [
        _candidate(folder, f"{kind}, all stages", "PrepareInStages") for kind in _KINDS
    ]
    for one in measure(candidates, table, clock):
        kind = one.candidate.name.split(",")[0]
        for stage in STAGES:
            values = (1e-6 * turn["bytes"] / turn[stage] for turn in one.turns)
            table.add(f"{kind}, {stage}", "speed", "MB/s", *values)
            shares = (100.0 * turn[stage] / turn["seconds"] for turn in one.turns)
            table.add(f"{kind}, {stage}", "share of the time", "%", *shares)
        table.add(one.candidate.name, "speed", "MB/s", *one.rates("bytes", 1e-6))
    table.end()


def load(folder: pathlib.Path, report: Report, clock: Clock) -> None:
    table = report.table(
        "Loading batches of 64 rows of 512 tokens",
        "Real tokens in host memory. The collator of `transformers` masks there, in its "
        "NumPy mode; ours masks on the device, inside the step. One core, but for several "
        "workers.",
    )
    workers = num_cores()
    candidates = [
        _candidate(folder, "WordPiece, ours", "Load", num_workers=0),
        _candidate(folder, "WordPiece, collator", "LoadWithCollator"),
        _candidate(
            folder,
            f"WordPiece, ours, {workers} worker processes",
            "Load",
            one_core=False,
            num_workers=workers,
        ),
    ]
    measured = measure(candidates, table, clock)
    add_rates(table, measured, "tokens")
    table.end()


def _candidate(
    folder: pathlib.Path, name: str, runner: str, *, one_core: bool = True, **more: Any
) -> Candidate:
    """A class of `data_runners`; the first word of its name is the tokenizer's kind."""
    kind = name.split(",")[0]
    return Candidate(
        name=name,
        runner=f"benchmarks.data_runners:{runner}",
        arguments={"folder": folder, "tokenizer": folder / kind, **more},
        one_core=one_core,
    )


def add_rates(table: Table, measured: Sequence[Measured], amount: str) -> None:
    """Adds the rates of all, and of the first one over each peer, turn by turn.

    The amount is "bytes" or "tokens"; the ratios are of this one.
    """
    for one in measured:
        name = one.candidate.name
        if amount == "bytes":
            table.add(name, "speed", "MB/s", *one.rates("bytes", 1e-6))
        table.add(name, "speed", "M tokens/s", *one.rates("tokens", 1e-6))
        if "ours" not in name and "ours" in measured[0].candidate.name:
            values = ratios(measured[0], one, amount)
            table.add(name, "ours is faster by", "x", *values)


PARTS: dict[str, Callable[[pathlib.Path, Report, Clock], None]] = {
    "tokenize": tokenize,
    "prepare": prepare,
    "stages": stages,
    "loader": load,
}


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    clock = Clock.of(60.0 * options.minutes)
    if unknown := sorted(set(options.only) - set(PARTS)):
        print(
            f"error: --only {' '.join(unknown)}: no such part; there are "
            f"{', '.join(PARTS)}.",
            file=sys.stderr,
        )
        return 2
    chosen = [name for name in PARTS if not options.only or name in options.only]
    settings = {"source": options.source, "sample_bytes": options.sample_bytes}
    with (
        tempfile.TemporaryDirectory(prefix="bert_jax_benchmark_") as folder,
        start_report("data", settings, options.output) as report,
    ):
        make_inputs(options, pathlib.Path(folder))
        for number, name in enumerate(chosen):
            part = clock.part(1.0 / (len(chosen) - number))
            PARTS[name](pathlib.Path(folder), report, part)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
