"""What reading a source yields: documents, and counts of what was found on the way."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bert_jax.config import ReadOptions
from bert_jax.data.text.sections import Source
from bert_jax.data.uncommon_characters import uncommon_characters


@dataclasses.dataclass(frozen=True)
class Document:
    """One text with one paragraph per line; blank lines are allowed."""

    text: str
    key: str
    """Unique in its source, and the same on every machine however the source is divided."""
    group: str
    """Documents of one group are all in training or all in validation."""
    utf8: bytes
    """The text in UTF-8."""
    uncommon: frozenset[str]
    """Its characters but printable ASCII and newlines, see `uncommon_characters`."""

    @classmethod
    def of(cls, text: str, key: str = "", group: str = "") -> "Document":
        """A document of a text; in its UTF-8, `?` stands for lone surrogates."""
        utf8 = text.encode("utf-8", "replace")
        return cls(text, key, group, utf8, uncommon_characters(utf8))


@dataclasses.dataclass
class ReadStats:
    """Counts of what was read; those of several sections can be added with `+`."""

    documents: int = 0
    characters: int = 0
    text_bytes: int = 0
    """Size of the documents in UTF-8."""
    disk_bytes: int = 0
    """How much of the sections has been read; in the end the sum of their `size_bytes`."""
    undecodable_bytes: int = 0
    """Bytes that are not UTF-8, and lone surrogates in JSON; each became U+FFFD."""
    control_characters: int = 0
    """Control characters that were removed or, between words, became a space."""
    empty_documents: int = 0
    """Documents that were left out because no text remained."""
    cut_documents: int = 0
    """Documents that were too large and became several."""
    paragraph_documents: int = 0
    """Documents of plain text that blank lines divide."""
    single_documents: int = 0
    """Files of plain text in which no blank line divides documents, so that each is one."""
    broken_records: int = 0
    """Records that could not be read and were left out, see `ReadOptions.skip_broken`."""
    markup_documents: int = 0
    """Documents with at least one tag, comment, entity, wiki link or wiki template."""
    markup_elements: int = 0
    """Number of tags, comments, entities, wiki links and wiki templates."""

    def __add__(self, other: "ReadStats") -> "ReadStats":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return ReadStats(*(mine + its for mine, its in pairs))


def source_counts(source: Source, stats: Sequence[ReadStats]) -> list[dict[str, Any]]:
    """The name, the number of files and all counts of each source, as values for JSON.

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


def refuse_broken(
    source: Source, stats: Sequence[ReadStats], options: ReadOptions
) -> None:
    """Checks what was left out of each source when all of it has been read.

    `read_section` knows one file, or a part of one, and lets so many records pass there.

    Args:
        source: from `open_source`.
        stats: what was read of each of its `specs`.
        options: how it was read.

    Raises:
        ValueError: more records of a source were left out than asked for.
    """
    for spec, found in zip(source.specs, stats, strict=True):
        if found.broken_records > options.skip_broken:
            raise ValueError(
                f"{spec} has {found.broken_records:,} records that cannot be read, more "
                f"than --read.skip-broken {options.skip_broken}. Repair them, or start "
                "again with a larger number and another --output."
            )
