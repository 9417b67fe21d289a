"""What was read of each source of a corpus, as values for JSON."""

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
