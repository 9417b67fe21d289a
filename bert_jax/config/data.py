"""From a prepared dataset to masked rows."""

import dataclasses
import pathlib
from typing import Literal

from bert_jax.config.checks import require, require_positive, require_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens are hidden (Devlin et al. 2018, section 3.1 and appendix A.1)."""

    rate: float = 0.15
    """Share of a row's real tokens to choose, special tokens counted."""
    mask_share: float = 0.8
    """Of the chosen, replaced by [MASK]."""
    random_share: float = 0.1
    """Of the chosen, replaced by a random token; the rest stay as they are."""
    max_slots: int | None = None
    """Most tokens to choose in a row (google-research: max_predictions_per_seq)."""
    unit: Literal["token", "word", "span"] = "token"
    """Chosen together: one token, a whole word, or some words (Joshi et al. 2020). A
    word that is longer than all that a row may choose is never chosen."""
    span_p: float = 0.2
    """Spans have n words with probability ~ span_p * (1 - span_p) ** (n - 1)."""
    max_span_words: int = 10
    """Longest span."""

    def __post_init__(self) -> None:
        require(
            0.0 < self.rate < 1.0, f"MaskingConfig.rate={self.rate} is not in (0, 1)."
        )
        for name in ("mask_share", "random_share"):
            value = getattr(self, name)
            require(
                0.0 <= value <= 1.0, f"MaskingConfig.{name}={value} is not in [0, 1]."
            )
        require(
            self.mask_share + self.random_share <= 1.0 + 1e-9,
            f"MaskingConfig.mask_share={self.mask_share} and "
            f"random_share={self.random_share} add up to more than 1.",
        )
        if self.max_slots is not None:
            require_positive(self, "max_slots")
        require(
            0.0 < self.span_p <= 1.0,
            f"MaskingConfig.span_p={self.span_p} is not in (0, 1].",
        )
        require_positive(self, "max_span_words")
        for name in ("span_p", "max_span_words"):
            value, default = getattr(self, name), getattr(MaskingConfig, name)
            require(
                self.unit == "span" or value == default,
                f"MaskingConfig.{name}={value} would be ignored: unit={self.unit!r} "
                "has no spans. Set unit='span' or leave it out.",
            )

    def num_slots(self, length: int) -> int:
        """Masked positions a row of `length` tokens can have; at least one."""
        slots = max(1, round(self.rate * length))
        return slots if self.max_slots is None else min(slots, self.max_slots)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From a prepared dataset to rows of tokens."""

    dataset: pathlib.Path | None = None
    """Directory written by `bert-jax prepare`."""
    sequence_length: int = 128
    """T: tokens of a row; of the longest, with buckets."""
    pairs: Literal["next_sentence", "sentence_order", "none"] = "next_sentence"
    """Sentence pairs labelled as BERT did or as ALBERT did; else single segments."""
    short_pair_rate: float = 0.1
    """Share of documents cut into pairs of a random shorter length."""
    layout: Literal["packed", "buckets", "padded"] = "packed"
    """Several pairs a row, isolated from each other; rows of a few fixed lengths, one
    length a batch; or one pair a row and padding."""
    max_pairs_per_row: int = 8
    """P: pairs that one packed row can hold."""
    bucket_lengths: tuple[int, ...] = ()
    """Row lengths of the buckets, ascending to T; a quarter, half and all of T when
    empty. A batch of length L has batch_size * (T // L) rows."""
    num_threads: int = 2
    """Grain threads that assemble batches ahead of the step, of each process."""
    num_workers: int = 0
    """Grain processes that assemble batches; 0 leaves it to this one's threads."""
    plan_dir: pathlib.Path | None = None
    """Where the plans of epochs are kept; else in the dataset's own folder."""

    def __post_init__(self) -> None:
        require_positive(self, "max_pairs_per_row", "num_threads")
        require_rate(self, "short_pair_rate")
        require(
            8 <= self.sequence_length < 2**16,
            f"DataConfig.sequence_length={self.sequence_length} is not in [8, 65536); a "
            "pair with its special tokens needs at least 8.",
        )
        require(
            self.num_workers >= 0,
            f"DataConfig.num_workers={self.num_workers} must not be negative.",
        )
        require(
            self.layout == "buckets" or not self.bucket_lengths,
            f"DataConfig.bucket_lengths={self.bucket_lengths} would be ignored: layout="
            f"{self.layout!r} has no buckets. Set layout='buckets' or leave it out.",
        )
        require(
            sorted(set(self.buckets)) == list(self.buckets)
            and self.buckets[0] >= 8
            and self.buckets[-1] == self.sequence_length,
            f"DataConfig.bucket_lengths={self.bucket_lengths} must ascend from at least "
            f"8 and end with sequence_length={self.sequence_length}.",
        )

    @property
    def pairs_per_row(self) -> int:
        return self.max_pairs_per_row if self.layout == "packed" else 1

    @property
    def without_buckets(self) -> "DataConfig":
        """The same pairs in rows of one length: padded, where this has buckets."""
        if self.layout != "buckets":
            return self
        return dataclasses.replace(self, layout="padded", bucket_lengths=())

    @property
    def buckets(self) -> tuple[int, ...]:
        """Row lengths of layout="buckets", ascending."""
        longest = self.sequence_length
        shorter = (n for n in (longest // 4, longest // 2) if n >= 8)
        return self.bucket_lengths or (*shorter, longest)
