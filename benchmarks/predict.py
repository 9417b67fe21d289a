"""Speed of prediction on many short texts, beside transformers on the same weights.

    python -m benchmarks.predict --texts FILE --vocab VOCAB [--size mini] [--minutes 6]

Both begin with the texts in memory and end with a line of JSON for each. Theirs is a loop
over batches of 32 that are padded to their longest text, in the order of the file or by
length, and the library's pipeline. Writes `predict-MACHINE-DATE.md` and `.json`.
"""

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import tyro

from benchmarks.machine import RESULTS, num_cores, start_report
from benchmarks.results import Report, Table
from benchmarks.turns import Candidate, Clock, Measured, ask, measure, ratios

_MODEL_SECS = 180.0
_OURS = "bert_jax"
_ABOUT = (
    "Float32. A turn is one pass over all texts: tokens, batches, model, probabilities, "
    "JSON. Compiling came before. A ratio is taken turn by turn. The start is from the "
    "first import to the first answer."
)
# Both round in float32; the mean hides no text whose answer differs.
_MEAN_DIFFERENCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures prediction on this machine, beside transformers."""

    texts: pathlib.Path
    """File with a text a line."""
    vocab: pathlib.Path
    """A vocab.txt of lower-case WordPieces, such as the published one of BERT."""
    num_texts: int = 10_000
    """Number of texts to read of the file."""
    size: str = "mini"
    """Size of the model, whose weights are random."""
    minutes: float = 6.0
    """Most that the whole run takes."""
    output: pathlib.Path = RESULTS
    """Folder of the two result files."""


def candidates(options: Options, folder: str) -> list[Candidate]:
    """Ours first; PyTorch with its own number of threads, and with one.

    PyTorch's threads wait for each other in busy loops, so on a machine that is shared
    with other work one thread may be faster than several.
    """
    arguments: dict[str, Any] = {
        "folder": folder,
        "texts": str(options.texts.resolve()),
        "count": options.num_texts,
    }
    runner = "benchmarks.predict_runners"
    ours = Candidate(
        name=_OURS,
        runner=f"{runner}:OurPredicting",
        arguments=arguments,
        huge_pages=True,
    )
    counts = [None, 1] if num_cores() > 1 else [None]
    ways = [("sorted", "by length"), ("loop", "in order"), ("pipeline", "pipeline")]
    return [
        ours,
        *(
            Candidate(
                name=f"transformers, {said}{', one thread' if threads else ''}",
                runner=f"{runner}:TorchPredicting",
                arguments={**arguments, "way": way, "threads": threads},
            )
            for way, said in ways
            for threads in counts
            if way != "pipeline" or threads == counts[-1]
        ),
    ]


def add_figures(measured: Sequence[Measured], table: Table) -> None:
    """Speeds, starts, ratios, and how far the probabilities are from ours."""
    ours = next((one for one in measured if one.candidate.name == _OURS), None)
    for one in measured:
        name = one.candidate.name
        table.add(name, "texts", "/s", *one.rates("texts"))
        table.add(name, "start", "s", one.turns[0]["start"])
        if ours is None or one is ours:
            continue
        table.add(f"**{_OURS} / {name}**", "ratio", "x", *ratios(ours, one, "texts"))
        first, other = ours.turns[0], one.turns[0]
        difference = abs(first["sum"] - other["sum"]) / first["texts"]
        table.add(
            name,
            "mean probability, difference from ours",
            "",
            difference,
            at_most=_MEAN_DIFFERENCE,
        )


def measure_all(options: Options, report: Report, clock: Clock) -> None:
    """Adds the table of all ways."""
    title = f"BERT-{options.size}, {options.num_texts:,} texts of {options.texts.name}"
    table = report.table(title, _ABOUT)
    with tempfile.TemporaryDirectory() as folder:
        making = Candidate(
            name="the model",
            runner="benchmarks.predict_runners:make_models",
            arguments={
                "folder": folder,
                "size": options.size,
                "vocab": str(options.vocab.resolve()),
            },
        )
        if ask([making], table, _MODEL_SECS):
            found = measure(candidates(options, folder), table, clock, turn_secs=0.0)
            add_figures(found, table)
    table.end()


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    clock = Clock.of(60.0 * options.minutes)
    settings = {"minutes": options.minutes, "size": options.size}
    with start_report("predict", settings, options.output) as report:
        for path in (options.texts, options.vocab):
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist; expected a file.")
        measure_all(options, report, clock)
    return report.exit_code


def main() -> int:
    return run(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
