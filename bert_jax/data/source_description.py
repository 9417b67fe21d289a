"""What was read of each source of a corpus, in lines for the terminal.

Training describes datasets too, so nothing that reads text is imported here.
"""

from collections.abc import Sequence
from typing import Any

_UNUSUAL = {
    "paragraph_documents": "of them divided by blank lines",
    "single_documents": "files that came out as one document, without a blank line inside",
    "broken_records": "broken records left out",
    "empty_documents": "empty ones left out",
    "cut_documents": "giant ones cut",
    "undecodable_bytes": "bytes not UTF-8",
    "control_characters": "control characters",
    "markup_documents": "documents with markup",
}
"""Counts of `ReadStats` that are told where they are not 0."""


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
            f"; {one[name]:,} {what}"
            for name, what in _UNUSUAL.items()
            if one.get(name)
        )
        lines.append(
            f"source {one['source']}: {one['documents']:,} documents of "
            f"{one['text_bytes']:,} bytes of text, from {one['files']:,} files of "
            f"{one['disk_bytes']:,} bytes{found}"
        )
    if files_named_again:
        lines.append(
            f"files that several sources or links name, read once: {files_named_again:,}"
        )
    return lines
