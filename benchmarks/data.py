"""Speed of the way from text to batches, beside the libraries of the field.

    python -m benchmarks.data [--source SPEC] [--minutes 8] [--only PART ...] [--output DIR]

Measures tokenising, preparing and loading, each beside its peers in turns, and writes
`data-MACHINE-DATE.md` and `.json`. Peers come with the extra `bench`; one that is not
installed, and what the time is too short for, is named. Ctrl-C keeps what was measured.
"""

import dataclasses
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import tyro

from benchmarks.machine import describe_machine, num_cores
from benchmarks.results import Report, Table
from benchmarks.turns import (
    ROUNDS,
    Candidate,
    Clock,
    Measured,
    measure,
    ratios,
)
from bert_jax.config import TokenizerOptions

_HERE = pathlib.Path(__file__).resolve().parent
_SHARED = _HERE.parents[1] / "shared" / "data"
_ENWIKI = _SHARED / "enwiki" / "enwiki-2014-open.tar.xz"
_BERT_VOCAB = _SHARED / "vocab" / "bert-base-uncased-vocab.txt"


def default_source() -> str:
    """English Wikipedia where it lies beside the repository, else installed documentation."""
    return f"files:{_ENWIKI}" if _ENWIKI.exists() else "docs:"


def default_vocab() -> pathlib.Path | None:
    """BERT's vocabulary where it lies beside the repository."""
    return _BERT_VOCAB if _BERT_VOCAB.exists() else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures the way from text to batches."""

    source: str = default_source()
    """Text, as `bert-jax prepare` takes it."""
    vocab: pathlib.Path | None = default_vocab()
    """An uncased vocab.txt of WordPiece. Default: BERT's if it lies beside the repository,
    else one is trained on the text."""
    minutes: float = 8.0
    """Most that the whole run takes. What does not fit is named as not measured."""
    only: tuple[str, ...] = ()
    """Parts to run: tokenize, prepare, or loader, which needs prepare. Default: all."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the two result files."""
    sample_bytes: int = 15_000_000
    """Bytes of the text that are used, from its beginning."""
    vocab_size: int = 30_522
    """Pieces of the vocabularies that are trained."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """One run: its folder of temporary files, its report and its time."""

    options: Options
    folder: pathlib.Path
    report: Report
    clock: Clock

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def make_inputs(self) -> None:
        """Samples of the text, and both tokenizers."""
        from benchmarks.data_runners import write_sample
        from bert_jax.data.tokenizers.tokenizer_training import (
            train_tokenizer,
            wrap_vocab,
        )

        options = self.options
        sample = self.folder / "sample.jsonl"
        write_sample(options.source, sample, options.sample_bytes)
        kinds: dict[str, Any] = {"SentencePiece": "unigram"}
        if options.vocab is None:
            kinds["WordPiece"] = "wordpiece"
        else:
            wrap_vocab(options.vocab, self.folder / "WordPiece", lowercase=True)
        for name, kind in kinds.items():
            settings = TokenizerOptions(
                kind=kind, vocab_size=options.vocab_size, num_threads=num_cores()
            )
            train_tokenizer(f"files:{sample}", self.folder / name, settings)

    def tokenize(self, clock: Clock) -> None:
        table = self.report.table(
            "Tokenising, one core",
            "In every turn, text that no candidate has seen. Ours encodes sentences, as "
            "`prepare` does, with its cache of words; bare is the library alone.",
        )
        sample = {"sample": self.path("sample.jsonl")}
        for number, kind in enumerate(("WordPiece", "SentencePiece")):
            tokenizer = {"tokenizer": self.path(kind), **sample}
            measured = measure(
                [
                    Candidate(
                        name=f"{kind}, {way}",
                        runner="benchmarks.data_runners:Tokenize",
                        arguments={"way": way, "num_parts": ROUNDS, **tokenizer},
                        one_core=True,
                    )
                    for way in ("ours", "bare, sentences", "bare, documents")
                ],
                table,
                clock.part(0.5 + 0.5 * number),
            )
            add_rates(table, measured, "bytes")
        table.end()

    def prepare(self, clock: Clock) -> None:
        table = self.report.table(
            "Preparing",
            "All work from text to files, into a fresh folder in every turn; `datasets` "
            "tokenises and groups into blocks. Imports are not counted. One worker has "
            "one core.",
        )
        sample = self.path("sample.jsonl")

        def ours(kind: str, workers: int) -> Candidate:
            return Candidate(
                name=f"{kind}, ours, {workers} worker{'s' * (workers > 1)}",
                runner="benchmarks.data_runners:Prepare",
                arguments={
                    "source": f"files:{sample}",
                    "tokenizer": self.path(kind),
                    "output": self.path(f"dataset-{kind}-{workers}"),
                    "num_workers": workers,
                },
                one_core=workers == 1,
            )

        theirs = Candidate(
            name="WordPiece, datasets",
            runner="benchmarks.data_runners:PrepareWithDatasets",
            arguments={
                "tokenizer": self.path("WordPiece"),
                "sample": sample,
                "folder": self.path("datasets"),
            },
            one_core=True,
        )
        others = [ours("WordPiece", num_cores())] if num_cores() > 1 else []
        candidates = [ours("WordPiece", 1), theirs, *others, ours("SentencePiece", 1)]
        measured = measure(candidates, table, clock)
        add_rates(table, measured, "bytes")
        for one in measured:
            stored = (turn["stored"] for turn in one.turns)
            table.add(one.candidate.name, "stored", "bytes a token", *stored)
        table.end()

    def loader(self, clock: Clock) -> None:
        table = self.report.table(
            "Loading batches of 64 rows of 512 tokens",
            "Real tokens in host memory. The collator of `transformers` masks there; ours "
            "masks on the device, inside the step. One core, but for several workers.",
        )
        dataset = self.folder / "dataset-WordPiece-1"
        candidates = [
            Candidate(
                name=f"ours, {workers} worker processes" if workers else "ours",
                runner="benchmarks.data_runners:Load",
                arguments={"dataset": str(dataset), "num_workers": workers},
                one_core=not workers,
            )
            for workers in (0, num_cores())
        ]
        candidates += [
            Candidate(
                name=f"datasets + collator, {name}",
                runner="benchmarks.data_runners:LoadWithCollator",
                arguments={
                    "tokenizer": self.path("WordPiece"),
                    "sample": self.path("sample.jsonl"),
                    "folder": self.path(f"blocks-{tensors}"),
                    "tensors": tensors,
                },
                one_core=True,
            )
            for name, tensors in (("PyTorch", "pt"), ("NumPy", "np"))
        ]
        measured = measure(candidates, table, clock)
        add_rates(table, measured, "tokens")
        for one in measured:
            if one.facts is not None:
                name, facts = one.candidate.name, one.facts
                speed = facts["sentences_per_sec"] / 1e6
                table.add(name, "planning an epoch", "M sentences/s", speed)
                density = 100.0 * facts["density"]
                table.add(name, "real tokens in packed rows", "%", density)
        table.end()


def add_rates(table: Table, measured: list[Measured], amount: str) -> None:
    """Rates of all, and ours over each of the others, turn by turn.

    Args:
        measured: ours first.
        amount: "bytes" or "tokens"; the ratios are of this one.
    """
    for one in measured:
        name = one.candidate.name
        if amount == "bytes":
            table.add(name, "speed", "MB/s", *one.rates("bytes", 1e-6))
        table.add(name, "speed", "M tokens/s", *one.rates("tokens", 1e-6))
    for other in measured[1:]:
        if "ours" not in other.candidate.name:
            values = ratios(measured[0], other, amount)
            table.add(other.candidate.name, "ours is faster by", "x", *values)


PARTS: dict[str, tuple[Callable[[Bench, Clock], None], float]] = {
    "tokenize": (Bench.tokenize, 2.0),
    "prepare": (Bench.prepare, 3.0),
    "loader": (Bench.loader, 2.0),
}
"""Each part and its weight in the time that is left."""


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    clock = Clock.of(60.0 * options.minutes)
    # A terminated run keeps what it has measured, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if unknown := sorted(set(options.only) - set(PARTS)):
        print(
            f"error: --only {' '.join(unknown)}: no such part; there are "
            f"{', '.join(PARTS)}.",
            file=sys.stderr,
        )
        return 2
    chosen = [name for name in PARTS if not options.only or name in options.only]
    report = Report("data", describe_machine(), {"source": options.source})
    code = 0
    with tempfile.TemporaryDirectory(prefix="bert_jax_benchmark_") as folder:
        bench = Bench(options, pathlib.Path(folder), report, clock)
        try:
            bench.make_inputs()
            for number, name in enumerate(chosen):
                weights = [PARTS[coming][1] for coming in chosen[number:]]
                PARTS[name][0](bench, clock.part(weights[0] / sum(weights)))
        except KeyboardInterrupt:
            report.remarks.append("**Interrupted**: these are the figures until then.")
            code = 130
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print("written:", *report.write(options.output))
    return code if report.is_correct else 1


if __name__ == "__main__":
    sys.exit(main())
