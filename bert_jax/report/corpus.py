"""What the page says about the text: what it holds, and what its audit found.

A corpus is the table that `data.summary.summarize` makes. A pretraining run keeps it
in its results; `dataset.load_dataset` makes it of a prepared dataset.
"""

from typing import Any

from bert_jax.report import formats
from bert_jax.report.charts import Chart
from bert_jax.report.inputs import Record, Run
from bert_jax.report.lengths import length_bins, length_chart

_SPLITS = {"train": "Training", "validation": "Held out"}
_LENGTHS = (("documents", "document"), ("sentences", "sentence"))
_CASING = {True: "lower case", False: "cased", None: "casing not recorded"}
_SHARDS_SHOWN = 5


def run_corpus(run: Run) -> Record:
    """The corpus of a pretraining run; without an audit, what else is known of it."""
    results = run.results
    kept = results.table("corpus")
    if kept is not None:
        return kept
    train = {
        "documents": results.count("num_documents"),
        "tokens": results.count("num_tokens"),
        "unigram_entropy": results.number("unigram_entropy"),
    }
    tokenizer = {"vocab_size": results.count("vocab_size")}
    return Record({"splits": {"train": train}, "tokenizer": tokenizer}, results.source)


def total(corpus: Record, name: str) -> int | None:
    """Documents, sentences, tokens or bytes over both splits; None where one of them was not measured."""
    counts = [corpus.count("splits", split, name) for split in _SPLITS]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def warnings(corpus: Record, run: Run | None) -> list[str]:
    """What would spoil training, and whether the run read another text than this.

    Raises:
        ValueError: the problems are not a list of texts.
    """
    found = corpus.items("problems") or []
    if not all(isinstance(problem, str) for problem in found):
        raise ValueError(
            f"{corpus.source}: problems={found!r} is not a list of texts; write it "
            "again with this version, or mend the file."
        )
    if run is None or _same(run_corpus(run), corpus):
        return found
    other = "The pretraining run read another dataset than the one described here."
    return [other, *found]


def verdict(corpus: Record) -> str:
    """A sentence where the audit found nothing; empty where it did or was not made."""
    if corpus.items("problems") == []:
        return "The audit of the text found nothing that would spoil training."
    return ""


def missing_parts(corpus: Record) -> list[str]:
    """What no audit measured, of that which has no place for saying so itself."""
    parts: dict[str, object] = {
        f"length of {plural}": corpus.table("audit", f"{plural}_by_length")
        for plural, _ in _LENGTHS
    }
    parts["repeated lines"] = corpus.items("audit", "most_repeated_lines")
    parts["problems of the text"] = corpus.items("problems")
    return [name for name, value in parts.items() if value is None]


def corpus_charts(corpus: Record) -> list[Chart]:
    """Histograms of lengths, as far as they were measured."""
    made = (
        length_chart(
            length_bins(corpus, f"{plural}_by_length"),
            total(corpus, "tokens"),
            name=f"corpus-{plural}",
            title=f"Length of {plural}",
            noun=noun,
        )
        for plural, noun in _LENGTHS
    )
    return [chart for chart in made if chart is not None]


def split_rows(corpus: Record) -> list[dict[str, Any]]:
    """The table of splits: documents, sentences, tokens, bytes, entropy of each."""
    rows = []
    for split, title in _SPLITS.items():
        counts = [
            formats.count(corpus.count("splits", split, name))
            for name in ("documents", "sentences", "tokens")
        ]
        size = formats.size(corpus.count("splits", split, "bytes"))
        entropy = formats.decimal(corpus.number("splits", split, "unigram_entropy"))
        rows.append({"name": title, "numbers": [*counts, size, entropy]})
    return rows


def repeated_lines(corpus: Record) -> list[dict[str, str]]:
    """The table of the lines that stand there most often.

    Raises:
        ValueError: one of them is not a text with a count.
    """
    lines = corpus.count("audit", "lines")
    rows = []
    for pair in corpus.items("audit", "most_repeated_lines") or []:
        match pair:
            case [str(text), int(times)] if times >= 0 and not isinstance(times, bool):
                part = times / lines if lines else None
            case _:
                raise ValueError(
                    f"{corpus.source}: audit.most_repeated_lines holds {pair!r}; "
                    "expected a text and how often it stands there. Write it again "
                    "with this version, or mend the file."
                )
        times_shown, share = formats.count(times), formats.rare(part)
        rows.append({"text": text, "times": times_shown, "share": share})
    return rows


def repeated_lines_caption(corpus: Record) -> str:
    """What the counts of the table mean."""
    if not corpus.items("audit", "most_repeated_lines"):
        return "No line was seen to repeat within a shard."
    number = corpus.count("audit", "lines")
    among = "" if number is None else f"Of {formats.plural(number, 'line')}. "
    return (
        f"{among}Each stands there at least so often; long lines are told apart by how "
        "they begin."
    )


def origins(corpus: Record) -> list[dict[str, str]]:
    """Where the text and the vocabulary came from, with their hashes."""
    sha256 = corpus.text("sha256")
    size = corpus.count("tokenizer", "vocab_size")
    kind = corpus.text("tokenizer", "kind")
    casing = _CASING[corpus.flag("tokenizer", "lowercase")]
    described = [kind, casing] if kind is not None else ["kind not recorded"]
    pieces = "size not measured" if size is None else formats.plural(size, "piece")
    return [
        {
            "name": "Text",
            "origin": corpus.text("source") or "not recorded",
            "hash": sha256 or "",
            "note": ""
            if sha256 is None
            else "as sha256sum *.array_record-* | sha256sum prints it",
        },
        {
            "name": "Vocabulary",
            "origin": ", ".join([*described, pieces]),
            "hash": corpus.text("tokenizer", "sha256") or "",
            "note": "",
        },
    ]


def text_facts(corpus: Record) -> list[tuple[str, str]]:
    """Ratios of the training split, and what the model could not learn from."""
    documents, sentences, tokens, size = (
        corpus.count("splits", "train", name)
        for name in ("documents", "sentences", "tokens", "bytes")
    )
    short = corpus.count("audit", "one_sentence_documents")
    empty = corpus.count("audit", "documents_without_tokens")
    return [
        ("Tokens per document", formats.decimal(_ratio(tokens, documents), 1)),
        ("Tokens per sentence", formats.decimal(_ratio(tokens, sentences), 1)),
        ("Bytes per token", formats.decimal(_ratio(size, tokens))),
        ("[UNK] among the tokens", formats.rare(corpus.rate("audit", "unk_share"))),
        ("Documents of one sentence", _part(short, total(corpus, "documents"))),
        ("Documents without tokens", formats.count(empty)),
    ]


def copy_facts(corpus: Record) -> list[tuple[str, str]]:
    """What stands in the text more than once."""
    read = corpus.count("read", "documents")
    held_out = corpus.count("splits", "validation", "documents")
    exact, near, leaked = (
        corpus.count("audit", "duplicates", name)
        for name in ("exact", "near", "leaked")
    )
    dropped = corpus.flag("audit", "duplicates", "dropped")
    outcome = {True: "dropped", False: "kept", None: formats.NOT_MEASURED}[dropped]
    # Shares of what stayed would mislead: nothing of these stayed.
    others = None if dropped else held_out
    return [
        ("Copies of documents", _part(exact, read)),
        ("Near copies", near_copies(corpus, _part(near, read))),
        ("Held out and in training", _part(leaked, others)),
        ("Copies were", outcome),
        ("Shards with the same content", _duplicate_shards(corpus)),
    ]


def near_copies(corpus: Record, shown: str) -> str:
    """`shown`, or that nobody looked for near copies."""
    threshold = corpus.number("options", "near_threshold")
    return "not looked for" if threshold == 0.0 else shown


def reading_facts(corpus: Record) -> list[tuple[str, str]]:
    """What reading the files met."""

    def met(name: str) -> int | None:
        return corpus.count("read", name)

    markup = formats.count(met("markup_documents"))
    if met("markup_documents"):
        treated = corpus.text("options", "read", "markup") == "strip"
        markup += ", removed" if treated else ", kept"
    return [
        ("Files", formats.size(met("disk_bytes"))),
        ("Text", formats.size(met("text_bytes"))),
        ("Characters", formats.count(met("characters"))),
        ("Documents", formats.count(met("documents"))),
        ("Documents with markup", markup),
        ("Tags, entities, wiki markup", formats.count(met("markup_elements"))),
        ("Giant documents, cut", formats.count(met("cut_documents"))),
        ("Empty documents, left out", formats.count(met("empty_documents"))),
        ("Bytes not UTF-8", formats.count(met("undecodable_bytes"))),
        ("Control characters, removed", formats.count(met("control_characters"))),
    ]


def _same(one: Record, other: Record) -> bool:
    """Whether two corpora are one, as far as both say it."""
    pairs: list[tuple[str | int | None, str | int | None]] = [
        (one.text("sha256"), other.text("sha256"))
    ]
    for name in ("documents", "tokens"):
        where = ("splits", "train", name)
        pairs.append((one.count(*where), other.count(*where)))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _ratio(number: int | None, of: int | None) -> float | None:
    return None if number is None or not of else number / of


def _part(number: int | None, of: int | None) -> str:
    """A count, with its share where there is one."""
    share = _ratio(number, of)
    return formats.count(number) + (f" ({formats.rare(share)})" if share else "")


def _duplicate_shards(corpus: Record) -> str:
    pairs = corpus.items("audit", "duplicate_shards")
    if pairs is None:
        return formats.NOT_MEASURED
    shown = []
    for pair in pairs:
        match pair:
            case [int(one), int(other)]:
                shown.append(f"{one} = {other}")
            case _:
                raise ValueError(
                    f"{corpus.source}: audit.duplicate_shards holds {pair!r}; expected "
                    "the numbers of two shards. Write it again with this version, or "
                    "mend the file."
                )
    more = ["…"] * (len(shown) > _SHARDS_SHOWN)
    return ", ".join([*shown[:_SHARDS_SHOWN], *more]) or "none"
