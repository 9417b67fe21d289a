"""What reading gives: documents, and counts of what was met on the way."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Document:
    """One text, its paragraphs a line each (blank lines allowed)."""

    text: str
    key: str
    """Unique in its source and the same on every machine, however it was divided."""
    group: str
    """What must not be split between training and validation."""


@dataclasses.dataclass
class ReadStats:
    """What reading met. Add those of several units with `+` or `sum(..., start)`."""

    documents: int = 0
    characters: int = 0
    text_bytes: int = 0
    """Of the documents, as UTF-8."""
    disk_bytes: int = 0
    """Of the units, worked through so far; in the end the sum of their `size_bytes`."""
    undecodable_bytes: int = 0
    """Not UTF-8 (or lone surrogates in JSON); each became U+FFFD."""
    control_characters: int = 0
    """Removed; those that separate words became a space."""
    empty_documents: int = 0
    """Left out: nothing remained of their text."""
    cut_documents: int = 0
    """Too large for one, and given as several."""
    markup_documents: int = 0
    """With at least one tag, comment, entity, wiki link or wiki template."""
    markup_elements: int = 0
    """How many of these there were."""

    def __add__(self, other: "ReadStats") -> "ReadStats":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return ReadStats(*(mine + its for mine, its in pairs))
