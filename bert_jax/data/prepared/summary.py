"""What a manifest says about its corpus: in lines, as problems, and as a run keeps it.

Everything here reads a manifest and nothing else, so that training and the report need
none of the code that writes datasets.
"""

from typing import Any

from bert_jax.data.plural import plural
from bert_jax.data.prepared.manifest import dataset_sha256
from bert_jax.data.source_description import describe_sources

# Blank lines divide a text of more than so many documents a file, and shorter ones.
_MANY_PARAGRAPHS = 50
_SHORT_TOKENS = 150
# The share of held-out tokens may be so many times too large or too small.
_UNEVEN = 4.0

_KEPT = ("source", "sources", "options", "tokenizer", "splits", "read", "audit")


def summarize(manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that a run keeps and the report shows.

    Returns:
        `source`, `sources`, `options`, `tokenizer`, `splits`, `read` and `audit` as they
        stand in the manifest; `problems`, the result of the function of that name; and `sha256`,
        from `manifest.dataset_sha256`.
    """
    return {
        **{name: manifest[name] for name in _KEPT},
        "problems": problems(manifest),
        "sha256": dataset_sha256(manifest),
    }


def problems(manifest: dict[str, Any]) -> list[str]:
    """What would spoil training on this corpus, one sentence each; empty if nothing.

    The limits are far above the values of clean text (English Wikipedia: 0.04 % [UNK],
    0.013 % markup per character, no copies), so a value above them means a mistake.
    """
    audit, read = manifest["audit"], manifest["read"]
    documents = max(sum(s["documents"] for s in manifest["splits"].values()), 1)
    found = []

    def check(value: float, limit: float, what: str, advice: str) -> None:
        if value > limit:
            found.append(f"{what}: {value:.2%}, more than {limit:.2%}. {advice}")

    check(
        audit["unk_share"],
        0.01,
        "[UNK] among the tokens",
        "The tokenizer does not know this text; train one on it.",
    )
    normal = audit.get("normalization", {"needed_marks": 0})
    check(
        normal["needed_marks"] / max(normal.get("characters", 1), 1),
        0.001,
        "vowel signs and other marks that their script needs, deleted by the tokenizer, "
        "among the characters",
        "Words that differ become the same. Take a tokenizer that keeps marks; "
        "bert-jax tokenizer train makes one.",
    )
    copies = audit["duplicates"]
    advice = "Drop them with --duplicates drop."
    if not copies["dropped"]:
        check(copies["exact"] / documents, 0.01, "copies of other documents", advice)
        check(
            copies["near"] / documents, 0.05, "near copies of other documents", advice
        )
        check(
            copies["leaked"] / max(manifest["splits"]["validation"]["documents"], 1),
            0.01,
            "held-out documents that also stand in the training split",
            advice,
        )
    if audit["duplicate_shards"]:
        found.append(
            f"shards with the same content: {audit['duplicate_shards'][:5]}. The source "
            "holds a file twice; remove one of them."
        )
    if top := audit["most_repeated_lines"]:
        line, count = top[0]
        check(
            count / max(audit["lines"], 1),
            0.02,
            f"one line, {line[:40]!r}, among all lines",
            "Remove such boilerplate from the text.",
        )
    check(
        audit["one_sentence_documents"] / documents,
        0.5,
        "documents of one sentence",
        "They have no next sentence. If each file is one text, pass --read.documents file; "
        "else pretrain with --data.pairs none.",
    )
    found += _paragraphs_as_documents(manifest) + _uneven_split(manifest)
    check(
        read["undecodable_bytes"] / max(read["text_bytes"], 1),
        1e-4,
        "bytes that are not UTF-8",
        "Convert the files to UTF-8.",
    )
    if manifest["options"]["read"]["markup"] == "keep":
        check(
            read["markup_elements"] / max(read["characters"], 1),
            0.001,
            "tags, entities and other markup a character",
            "Remove it with --read.markup strip.",
        )
    return found


def _paragraphs_as_documents(manifest: dict[str, Any]) -> list[str]:
    """A problem if many short documents of few files look like paragraphs of a text."""
    splits = manifest["splits"].values()
    documents = max(sum(split["documents"] for split in splits), 1)
    tokens = sum(split["tokens"] for split in splits) / documents
    files = sum(one["files"] for one in manifest["sources"])
    paragraphs = manifest["read"]["paragraph_documents"]
    if tokens >= _SHORT_TOKENS or paragraphs < max(
        documents / 2, _MANY_PARAGRAPHS * files
    ):
        return []
    return [
        f"{paragraphs:,} documents from {plural(files, 'file')}, on average of {tokens:.0f} "
        "tokens: every blank line begins a document. If a file holds one text, such as "
        "a book, read it as one with --read.documents file."
    ]


def _uneven_split(manifest: dict[str, Any]) -> list[str]:
    """A problem if the share of held-out tokens is far from the fraction asked for."""
    tokens = {name: split["tokens"] for name, split in manifest["splits"].items()}
    share = tokens["validation"] / max(sum(tokens.values()), 1)
    fraction = manifest["options"]["validation_fraction"]
    if fraction / _UNEVEN <= share <= fraction * _UNEVEN:
        return []
    return [
        f"held-out tokens: {share:.2%} of all, in "
        f"{plural(manifest['splits']['validation']['documents'], 'document')}, where "
        f"{fraction:.2%} was asked for. Documents are few or of very unequal length; "
        "choose another --validation-fraction."
    ]


def describe(manifest: dict[str, Any]) -> list[str]:
    """The numbers of a manifest in a few lines for the terminal."""
    audit = manifest["audit"]
    lines = describe_sources(manifest["sources"], manifest["files_named_again"])
    lines += [
        f"{split}: {plural(counts['documents'], 'document')}, "
        f"{plural(counts['sentences'], 'sentence')}, "
        f"{plural(counts['tokens'], 'token')}, unigram entropy "
        f"{counts['unigram_entropy']:.3f} nats"
        for split, counts in manifest["splits"].items()
    ]
    if encoding := manifest.get("encoding"):
        lines.append(_encoding(**encoding))
    copies = audit["duplicates"]
    what = "dropped" if copies["dropped"] else "kept"
    near = plural(copies["near"], "near copy", "near copies")
    if not manifest["options"]["near_threshold"]:
        near = "near copies not looked for"
    lines.append(
        f"audit: [UNK] {audit['unk_share']:.3%} of the tokens; "
        f"{plural(copies['exact'], 'copy', 'copies')} of documents, {what}, {near}; "
        f"{plural(copies['leaked'], 'held-out document')} also in training"
    )
    lines += _lost_lines(audit.get("normalization", {"lost": {}}))
    if empty := audit["documents_without_tokens"]:
        lines.append(f"documents without a token, left out: {empty:,}")
    return lines


def _encoding(library: str, checked_characters: int, refused: str) -> str:
    """Which library encoded, in a line."""
    if checked_characters:
        why = (
            ", after it gave the ids of the library that defines them for "
            f"{checked_characters:,} characters of this source"
        )
    elif refused:
        why = f", because other ids came from {refused}"
    else:
        why = ""
    return f"encoded by {library}{why}"


def _lost_lines(normalization: dict[str, Any]) -> list[str]:
    """What normalisation takes away from a sample of the text, a line a category."""
    return [
        f"normalization deletes or merges {entry['count']:,} of "
        f"{normalization['characters']:,} characters of a sample, Unicode category {kind}: "
        + ", ".join(f"{before} → {after}" for before, after in entry["examples"])
        for kind, entry in normalization["lost"].items()
    ]
