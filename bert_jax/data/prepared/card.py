"""The card of a dataset: a page for people beside the manifest, which is for programs."""

from typing import Any

from bert_jax.data.prepared.summary import describe, problems

CARD = "README.md"


def card(manifest: dict[str, Any]) -> str:
    """The card of a finished dataset as Markdown, from its manifest alone."""
    made_of = [f"- {line}" for line in describe(manifest)]
    found = [f"- {problem}" for problem in problems(manifest)] or ["- nothing"]
    rows = [
        f"| {split} | {counts['documents']:,} | {counts['tokens']:,} |"
        for split, counts in manifest["splits"].items()
    ]
    return "\n".join(
        [
            "# A text dataset for pretraining",
            "",
            "Tokenised documents, one a record, as a TFDS dataset of ArrayRecord files, "
            "written by `bert-jax prepare`. `tfds.builder_from_directory` opens it, and "
            "`bert-jax pretrain --data.dataset` reads it.",
            "",
            "| split | documents | tokens |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"Tokenizer: {manifest['tokenizer']['kind']}, "
            f"{manifest['tokenizer']['vocab_size']:,} pieces, in `tokenizer/`. All settings, "
            "counts and the hashes of all files are in `manifest.json`.",
            "",
            "## What it was made of",
            "",
            *made_of,
            "",
            "## What the audit found that would spoil training",
            "",
            *found,
            "",
            "## To be filled in by its owner",
            "",
            "- Where the text comes from, and under which licence.",
            "- Languages, years, and what was left out.",
            "- Personal data in it, and what it must not be used for.",
            "",
        ]
    )
