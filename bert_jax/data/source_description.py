"""What was read of each source of a corpus, in lines for the terminal.

Training describes datasets too, so nothing that reads text is imported here.
"""

from collections.abc import Sequence
from typing import Any

from bert_jax.data.plural import plural

_UNUSUAL = {
    "paragraph_documents": "of them divided by blank lines",
    "single_documents": "file{s} that came out as one document, without a blank line inside",
    "broken_records": "broken record{s} left out",
    "empty_documents": "empty one{s} left out",
    "cut_documents": "giant one{s} cut",
    "undecodable_bytes": "byte{s} not UTF-8",
    "control_characters": "control character{s}",
    "markup_documents": "document{s} with markup",
}
"""Counts of `ReadStats` that are told where they are not 0; {s} is for the plural."""


def describe_sources(
    sources: Sequence[dict[str, Any]], files_named_again: int
) -> list[str]:
    """What was read of each source, and of how many files once though named again.

    Args:
        sources: from `text.documents.source_counts`.
        files_named_again: `Source.num_repeated`.
    """
    lines = []
    for one in sources:
        found = "".join(
            f"; {one[name]:,} {what.format(s='' if one[name] == 1 else 's')}"
            for name, what in _UNUSUAL.items()
            if one.get(name)
        )
        lines.append(
            f"source {one['source']}: {plural(one['documents'], 'document')} of "
            f"{plural(one['text_bytes'], 'byte')} of text, from "
            f"{plural(one['files'], 'file')} of {plural(one['disk_bytes'], 'byte')}{found}"
        )
    if files_named_again:
        lines.append(
            f"files that several sources or links name, read once: {files_named_again:,}"
        )
    return lines
