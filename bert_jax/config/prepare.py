"""Settings of `bert-jax prepare`, which become part of what it writes."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How documents are read from files."""

    documents: Literal["blank-lines", "file"] = "blank-lines"
    """Of plain text: blank lines stand between documents, or a file is one."""
    markup: Literal["keep", "strip"] = "keep"
    """HTML tags, comments and entities, and left-over wiki markup; counted always."""
    max_document_bytes: int = 4 << 20
    """Larger documents are cut into several, at the ends of lines if possible."""
    text_field: str = "text"
    """Of JSONL and Parquet, and of TFDS where the source names none."""

    def __post_init__(self) -> None:
        if self.max_document_bytes < 1024:
            raise ValueError(
                f"max_document_bytes={self.max_document_bytes} must be at least 1024: "
                "no document should be cut that is read at one go."
            )
        if not self.text_field:
            raise ValueError("text_field is empty; expected a name such as text.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What decides the content of a prepared dataset, besides source and tokenizer."""

    validation_fraction: float = 0.05
    """Share of documents held out, in (0, 1)."""
    language: str = "en"
    """Rules of the sentence splitter, an ISO 639-1 code."""
    num_shards: int = 64
    """At most; a source of few megabytes gets fewer."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Of documents that repeat an earlier one; they are counted either way."""
    near_threshold: float = 0.0
    """Share of five-word sequences in common (Jaccard) from which on documents are
    near copies, such as 0.8; 0 does not look for any."""
    read: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        if not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} is not in (0, 1); "
                "without held-out documents the run could not be judged."
            )
        if not 0.0 <= self.near_threshold <= 1.0:
            raise ValueError(
                f"near_threshold={self.near_threshold} is not in [0, 1]; 0.8 finds "
                "documents that share four fifths of their wording."
            )
        if self.num_shards < 1:
            raise ValueError(f"num_shards={self.num_shards} must be at least 1.")


DEFAULT_OPTIONS = PrepareOptions()
