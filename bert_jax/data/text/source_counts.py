"""What was read of each source of a corpus: as values for JSON, and in lines."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bert_jax.data.text.documents import ReadStats
from bert_jax.data.text.sections import Source


def source_counts(source: Source, stats: Sequence[ReadStats]) -> list[dict[str, Any]]:
    """The name, the number of files and all counts of each source.

    Args:
        source: from `open_source`.
        stats: what was read of each of its `specs`.
    """
    return [
        {
            "source": spec,
            "files": sum(section.source == number for section in source.sections),
            **dataclasses.asdict(counts),
        }
        for number, (spec, counts) in enumerate(zip(source.specs, stats, strict=True))
    ]


def describe_sources(
    sources: Sequence[dict[str, Any]], files_named_again: int
) -> list[str]:
    """What was read of each source, and of how many files once though named again.

    Args:
        sources: from `source_counts`.
        files_named_again: `Source.num_repeated`.
    """
    lines = [
        f"source {one['source']}: {one['documents']:,} documents of "
        f"{one['text_bytes']:,} bytes of text, from {one['files']:,} files of "
        f"{one['disk_bytes']:,} bytes"
        for one in sources
    ]
    if files_named_again:
        lines.append(
            f"files that several sources or links name, read once: {files_named_again:,}"
        )
    return lines
