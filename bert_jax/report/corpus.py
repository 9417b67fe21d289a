"""What the page says about the text: what it holds, and what its audit found.

A corpus is a table that `data.prepared.summary.summarize` has made. The results of a
pretraining run hold that of its dataset.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bert_jax.report import charts, formats
from bert_jax.report.charts import PALETTE, Chart
from bert_jax.report.sections import Fact, Figure, Headline, Origin, Row, Section, Table

Corpus = Mapping[str, Any]

_SPLITS = {"train": "Training", "validation": "Held out"}
_NUM_LABELS = 8  # that fit below an axis


def lead(corpus: Corpus) -> str:
    """A sentence on how much text there is."""
    held_out = corpus["splits"]["validation"]["documents"]
    return (
        f"{formats.plural(_total(corpus, 'documents'), 'document')} "
        f"({formats.compact(_total(corpus, 'tokens'))} tokens), {held_out:,} of them "
        "held out."
    )


def headline(corpus: Corpus) -> Headline:
    """How much text there is, and how sound it is."""
    documents, tokens = _total(corpus, "documents"), _total(corpus, "tokens")
    entropy = corpus["splits"]["train"]["unigram_entropy"]
    copies = corpus["audit"]["duplicates"]
    figures = [
        Figure(
            formats.compact(documents),
            "documents",
            f"{tokens / max(documents, 1):,.1f} tokens each",
        ),
        Figure(formats.compact(tokens), "tokens", f"unigram entropy {entropy:.2f}"),
        Figure(
            formats.number(corpus["audit"]["unk_share"], ".2%"),
            "[UNK] among the tokens",
        ),
        Figure(formats.compact(copies["exact"]), "copies of documents"),
        Figure(f"{len(corpus['problems'])}", "problems found"),
    ]
    return Headline(f"Text, {corpus['source']}", figures)


def section(corpus: Corpus, warnings: Sequence[str]) -> Section:
    """The text as charts and tables.

    Args:
        corpus: the table of the text.
        warnings: to show above what the audit found.
    """
    problems = corpus["problems"]
    sound = "The audit of the text found nothing that would spoil training."
    lengths = (
        length_chart(corpus, "documents", "document"),
        length_chart(corpus, "sentences", "sentence"),
    )
    return Section(
        title="What it was made from",
        intro="" if problems else sound,
        warnings=[*warnings, *problems],
        cards=[
            *(chart for chart in lengths if chart is not None),
            _splits(corpus),
            _repeated_lines(corpus),
        ],
    )


def origins(corpus: Corpus) -> list[Origin]:
    """Where the text and the vocabulary came from, with their hashes."""
    tokenizer = corpus["tokenizer"]
    casing = "lower case" if tokenizer["lowercase"] else "cased"
    pieces = formats.plural(tokenizer["vocab_size"], "piece")
    shell = "The hash is that of `sha256sum *.array_record-* | sha256sum`."
    return [
        Origin("Text", corpus["source"], corpus["sha256"], shell),
        Origin(
            "Vocabulary",
            f"{tokenizer['kind']}, {casing}, {pieces}",
            tokenizer["sha256"],
        ),
    ]


def facts(corpus: Corpus) -> list[tuple[str, list[Fact]]]:
    """Every number of the audit and of reading, under the name that it is counted by."""
    return [
        (
            heading,
            [
                (formats.heading(name.replace(".", ": ").replace("_", " ")), value)
                for name, value in formats.flatten(_numbers(corpus[part])).items()
            ],
        )
        for heading, part in (("Audit of the text", "audit"), ("Reading", "read"))
    ]


def _numbers(counted: Mapping[str, Any]) -> dict[str, Any]:
    """What is no list and no histogram; sizes and shares are written out."""
    written: dict[str, Any] = {}
    for name, value in counted.items():
        if isinstance(value, dict) and not name.endswith("_by_length"):
            written[name] = _numbers(value)
        elif name.endswith("_bytes"):
            written[name] = formats.size(value)
        elif name.endswith("_share"):
            written[name] = formats.number(value, ".2%")
        elif isinstance(value, int):
            written[name] = value
    return written


def length_chart(corpus: Corpus, plural: str, noun: str) -> Chart | None:
    """A histogram of lengths in tokens; None where nothing was counted.

    Args:
        corpus: the table of the text; a bin of it holds lengths up to twice its own.
        plural: what has these lengths, "documents" or "sentences".
        noun: the singular.
    """
    counted = corpus["audit"][f"{plural}_by_length"]
    bins = sorted((int(least), number) for least, number in counted.items())
    number = sum(count for _, count in bins)
    if not number:
        return None
    edges = [least for least, _ in bins] + [2 * bins[-1][0]]

    def paint(axes: Axes) -> None:
        axes.bar(
            range(len(bins)),
            [count for _, count in bins],
            width=0.94,
            align="edge",
            color=PALETTE["accent"],
        )
        shown = range(0, len(edges), -(-len(edges) // _NUM_LABELS))
        axes.set_xticks(shown, [formats.count(edges[place]) for place in shown])
        axes.set_xlim(-0.1, len(bins) + 0.1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"tokens in a {noun}")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=charts.TICKS, integer=True))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: formats.compact_tick(y))
        )

    sums = itertools.accumulate(count for _, count in bins)
    median = next(b[0] for b, n in zip(bins, sums, strict=True) if 2 * n >= number)
    longest = max(least for least, count in bins if count)
    caption = (
        f"{formats.plural(number, noun)}, of {_total(corpus, 'tokens') / number:,.1f} "
        f"tokens in the mean and {_span(median)} in the median; the longest have "
        f"{_span(longest)}. A bar holds lengths up to twice its shortest."
    )
    title = f"Length of {plural}"
    return charts.draw(f"corpus-{plural}", title, caption, paint)


def _span(least: int) -> str:
    return "1" if least == 1 else f"{least:,} to {2 * least - 1:,}"


def _splits(corpus: Corpus) -> Table:
    rows = []
    for split, title in _SPLITS.items():
        found = corpus["splits"][split]
        counts = [f"{found[x]:,}" for x in ("documents", "sentences", "tokens")]
        entropy = f"{found['unigram_entropy']:.2f}"
        rows.append(Row(title, [*counts, formats.size(found["bytes"]), entropy]))
    return Table(
        title="Splits",
        wide=True,
        columns=(
            "Split, by document",
            *("Documents", "Sentences", "Tokens", "Text", "Unigram entropy, nats"),
        ),
        rows=rows,
    )


def _repeated_lines(corpus: Corpus) -> Table:
    lines = corpus["audit"]["lines"]
    rows = [
        Row(text, [f"{times:,}", formats.number(times / max(lines, 1), ".2%")])
        for text, times in corpus["audit"]["most_repeated_lines"]
    ]
    caption = (
        f"Of {formats.plural(lines, 'line')}. Each stands there at least so often; "
        "long lines are told apart by how they begin."
    )
    return Table(
        title="Lines that repeat most",
        wide=True,
        columns=("Line", "Times", "Share of lines"),
        rows=rows,
        caption=caption if rows else "No line was seen to repeat within a shard.",
    )


def _total(corpus: Corpus, name: str) -> int:
    return sum(corpus["splits"][split][name] for split in _SPLITS)
