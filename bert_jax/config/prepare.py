"""Settings of `bert-jax prepare`; they are stored in the dataset's manifest."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import (
    require_fitting,
    require_not_negative,
    require_positive,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How documents are read from a source."""

    documents: Literal["blank-lines", "file"] = "blank-lines"
    """What a document is in plain text. blank-lines: the text between blank lines. file:
    a whole file."""
    markup: Literal["keep", "strip"] = "keep"
    """What happens to HTML tags, comments, entities and left-over wiki markup. keep: they
    stay in the text. strip: they are removed. They are counted in both cases."""
    max_document_bytes: int = 4 << 20
    """Longer documents, in bytes, are cut into several, at ends of lines if possible."""
    text_field: str = "text"
    """Field or column that holds the text, for JSONL, Parquet and TFDS. The source
    tfds:...:FIELD names another one for TFDS."""
    skip_broken: int = 0
    """Most records of JSONL and Parquet in a source that are left out because they cannot
    be read, such as a broken line of JSON or a text that is a number. They are counted.
    One more is an error. The default refuses the first one."""

    def __post_init__(self) -> None:
        require_fitting(self)
        if self.max_document_bytes < 1024:
            raise ValueError(
                f"max_document_bytes={self.max_document_bytes} must be at least 1024, so "
                "that ordinary documents are not cut."
            )
        require_not_negative(self, "skip_broken")
        if not self.text_field:
            raise ValueError("text_field is empty; expected a name such as text.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Everything but source and tokenizer that decides the content of a dataset."""

    validation_fraction: float = 0.05
    """Expected fraction of documents that are held out for validation, in (0, 1)."""
    language: str = "en"
    """Language of the text, by whose rules sentences are split; an ISO 639 code. A language
    without rules of its own gets those of Unicode (UAX 29) and needs the extra icu."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What happens to documents that repeat an earlier one. keep: they stay. drop: they
    are left out. They are counted in both cases."""
    near_threshold: float = 0.0
    """Documents count as near copies if the Jaccard similarity of their five-word
    sequences is at least this, for example 0.8. In scripts without spaces, each character
    counts as a word. 0 does not look for near copies."""
    num_shards: int = 64
    """Most files of each split. A source of few megabytes gets fewer."""
    read: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        require_fitting(self)
        if not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} is not in (0, 1); "
                "without held-out documents a run could not be evaluated."
            )
        if not 0.0 <= self.near_threshold <= 1.0:
            raise ValueError(
                f"near_threshold={self.near_threshold} is not in [0, 1]; 0.8 finds "
                "documents that share four fifths of their wording."
            )
        require_positive(self, "num_shards")


DEFAULT_OPTIONS = PrepareOptions()
