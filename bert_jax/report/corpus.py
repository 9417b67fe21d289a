"""What the page says about the text: what it holds, and what its audit found.

A corpus is a table that `data.prepared.summary.summarize` has made. The results of a
pretraining run hold that of its dataset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.data.plural import plural
from bert_jax.report import formats
from bert_jax.report.cards import Figure, Part, Section, Table, settings_table

Corpus = Mapping[str, Any]


def part(corpus: Corpus, warnings: Sequence[str]) -> Part:
    """How much text there is, how sound it is, and all numbers of its audit.

    Args:
        corpus: the table of the text.
        warnings: to show above what the audit found.
    """
    train, held_out = (corpus["splits"][split] for split in ("train", "validation"))
    audit = corpus["audit"]
    entropy = f"unigram entropy {train['unigram_entropy']:.2f}"
    figures = [
        Figure(
            formats.compact(train["documents"] + held_out["documents"]),
            "documents",
            f"{held_out['documents']:,} held out",
        ),
        Figure(
            formats.compact(train["tokens"] + held_out["tokens"]), "tokens", entropy
        ),
        Figure(f"{audit['unk_share']:.2%}", "[UNK] among the tokens"),
        Figure(formats.compact(audit["duplicates"]["exact"]), "copies of documents"),
        Figure(f"{len(corpus['problems'])}", "problems found"),
    ]
    return Part(
        subject=f"Text, {corpus['source']}",
        figures=figures,
        sections=[_section(corpus, warnings)],
        settings=[settings_table("Preparation of the text", {"": corpus["options"]})],
    )


def _section(corpus: Corpus, warnings: Sequence[str]) -> Section:
    problems, audit = corpus["problems"], corpus["audit"]
    sound = "The audit of the text found nothing that would spoil training."
    repeated = [
        (line, {"times": times, "share": times / max(audit["lines"], 1)})
        for line, times in audit["most_repeated_lines"]
    ]
    cards = [
        _table("Sources", [(source["source"], source) for source in corpus["sources"]]),
        _table("Splits, by document", list(corpus["splits"].items())),
        Table(
            title="Audit of the text",
            rows=list(_numbers(audit).items()),
            caption="" if problems else sound,
            wide=False,
        ),
        Table(title="Reading", rows=list(_numbers(corpus["read"]).items()), wide=False),
        _table("Lines that repeat at least so often", repeated),
    ]
    return Section(
        title="What it was made from",
        warnings=[*warnings, *problems],
        cards=[card for card in cards if card.rows],
    )


def origins(corpus: Corpus) -> list[tuple[str, str, str]]:
    """Names, descriptions and hashes of the text and of the vocabulary."""
    tokenizer = corpus["tokenizer"]
    casing = "lower case" if tokenizer["lowercase"] else "cased"
    pieces = plural(tokenizer["vocab_size"], "piece")
    shell = "The hash is that of `sha256sum *.array_record-* | sha256sum`."
    return [
        ("Text", f"{corpus['source']}\n{shell}", corpus["sha256"]),
        ("Vocabulary", f"{tokenizer['kind']}, {casing}, {pieces}", tokenizer["sha256"]),
    ]


def _table(title: str, records: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """One row for each record, one column for each number in it."""
    numbers = [(name, _numbers(record)) for name, record in records]
    columns = dict.fromkeys(column for _, record in numbers for column in record)
    rows = [[name, *(x.get(column, "–") for column in columns)] for name, x in numbers]
    return Table(title=title, columns=["", *columns], rows=rows)


def _numbers(record: Mapping[str, Any]) -> dict[str, str]:
    """What is no list or text, as people read it."""
    written: dict[str, str] = {}
    for name, value in record.items():
        label = formats.heading(name.replace("_", " "))
        if isinstance(value, dict):
            inner = _numbers(value).items()
            written |= {f"{label}: {key.lower()}": text for key, text in inner}
        elif name.endswith("bytes"):
            written[label] = formats.compact(value, "B")
        elif isinstance(value, bool):
            written[label] = "yes" if value else "no"
        elif isinstance(value, int):
            written[label] = f"{value:,}"
        elif isinstance(value, float):
            written[label] = f"{value:.2%}" if "share" in name else f"{value:.2f}"
    return written
