"""Settings of `bert-jax tokenizer train`, which are kept beside what it writes."""

import dataclasses
from typing import Literal

from bert_jax.config.prepare import ReadOptions

MAX_SENTENCES = 1_000_000
MAX_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """What decides a trained vocabulary, besides the text."""

    kind: Literal["unigram", "bpe", "wordpiece"] = "unigram"
    """SentencePiece unigram or BPE, or WordPiece under BERT's rules."""
    vocab_size: int = 30_522
    """Pieces, the five special ones included; reached exactly or refused."""
    lowercase: bool = True
    """Fold case."""
    strip_accents: bool | None = None
    """Of WordPiece; follows lowercase by default. SentencePiece keeps accents."""
    max_sentences: int = MAX_SENTENCES
    """Of more, a uniform sample is used."""
    max_bytes: int = MAX_BYTES
    """Of a larger text, a uniform sample of sentences is used; memory: about 23 times
    this for unigram, 11 times for BPE."""
    num_threads: int = 2
    """Of SentencePiece's trainer; another number may change a few pieces."""
    language: str = "en"
    """Rules of the sentence splitter, an ISO 639-1 code."""
    read: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        if self.strip_accents is not None and self.kind != "wordpiece":
            raise ValueError(
                f"strip_accents={self.strip_accents} is a rule of WordPiece; kind="
                f"{self.kind!r} keeps accents. Leave it out."
            )
        for name in ("vocab_size", "max_sentences", "max_bytes", "num_threads"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
