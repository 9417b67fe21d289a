"""Settings of `bert-jax tokenizer train`; they are stored beside the tokenizer."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import (
    require_fitting,
    require_positive,
)
from bert_jax.config.prepare import ReadOptions

MAX_SENTENCES = 1_000_000
MAX_BYTES = 64 << 20
# SentencePiece skips longer training lines and reports it only in its log.
MAX_LINE_BYTES = 4_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """Everything but the text that decides a trained vocabulary."""

    vocab_size: int = 30_522
    """Number of pieces, with the five special ones. A text that does not allow exactly
    this number is an error."""
    kind: Literal["unigram", "bpe", "wordpiece", "byte-bpe"] = "unigram"
    """Kind of vocabulary. unigram: SentencePiece unigram. bpe: SentencePiece BPE.
    wordpiece: WordPiece with BERT's rules. byte-bpe: BPE of bytes, as in ModernBERT."""
    lowercase: bool = True
    """Put text in lower case."""
    language: str = "en"
    """Language of the text, by whose rules sentences are split; an ISO 639 code. A language
    without rules of its own gets those of Unicode (UAX 29) and needs the extra icu."""
    strip_accents: bool = False
    """Remove accents and vowel signs, as BERT's uncased vocabularies do. For WordPiece
    only. Different words become the same: in Hindi में (in) and म, in German schön and
    schon."""
    max_sentences: int = MAX_SENTENCES
    """Most sentences that are used; of a larger text, a uniform sample."""
    max_bytes: int = MAX_BYTES
    """Most bytes of text that are used; of a larger text, a uniform sample of sentences.
    Training takes about 23 times as much memory for unigram, 11 times for BPE."""
    num_threads: int = 2
    """Threads of SentencePiece's trainer. Another number can change a few pieces."""
    read: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        require_fitting(self)
        if self.strip_accents and self.kind != "wordpiece":
            raise ValueError(
                f"strip_accents={self.strip_accents} is a rule of WordPiece; kind="
                f"{self.kind!r} keeps accents. Leave it out."
            )
        require_positive(
            self, "vocab_size", "max_sentences", "max_bytes", "num_threads"
        )
        if self.max_bytes < MAX_LINE_BYTES:
            raise ValueError(
                f"max_bytes={self.max_bytes} must be at least {MAX_LINE_BYTES:,}, the "
                "longest line; a sample of fewer bytes can be empty."
            )
