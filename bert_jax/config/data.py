"""Settings of rows and masks: from a prepared dataset to what the model sees."""

import dataclasses
import pathlib
from typing import Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_not_negative,
    require_positive,
    require_rate,
    require_used,
    require_weights,
    require_workers,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens are masked (Devlin et al. 2018, section 3.1 and appendix A.1)."""

    rate: float = 0.15
    """Fraction of a row's tokens that are chosen. Special tokens count as tokens of the
    row; padding does not."""
    end_rate: float | None = None
    """Fraction at the last update of the run. In between, it changes on a straight line
    over the updates of all phases (Yang et al. 2023). Default: `rate` throughout."""
    eval_rate: float = 0.15
    """Fraction in every evaluation, whatever the rate of training, so that runs with
    different rates can be compared."""
    mask_share: float = 0.8
    """Fraction of the chosen tokens that are replaced by [MASK]."""
    random_share: float = 0.1
    """Fraction of the chosen tokens that are replaced by a random token. The rest of the
    chosen tokens is not changed."""
    max_slots: int | None = None
    """Most tokens that are chosen in a row (max_predictions_per_seq in google-research).
    Default: as many as the highest rate needs for a full row."""
    unit: Literal["token", "word", "span"] = "token"
    """What is chosen together. token: single tokens. word: all tokens of a word. span:
    several consecutive words (Joshi et al. 2020). A word with more tokens than a row may
    choose is never chosen."""
    span_p: float = 0.2
    """A span has n words with a probability proportional to (1 - span_p) ** (n - 1)."""
    max_span_words: int = 10
    """Most words of a span."""

    def __post_init__(self) -> None:
        require_fitting(self)
        for name in ("rate", "end_rate", "eval_rate"):
            value = getattr(self, name)
            require(
                value is None or 0.0 < value < 1.0,
                f"MaskingConfig.{name}={value} is not in (0, 1).",
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
        require(
            0.0 < self.span_p <= 1.0,
            f"MaskingConfig.span_p={self.span_p} is not in (0, 1].",
        )
        require_positive(self, "max_slots", "max_span_words")
        require_used(
            self,
            self.unit == "span",
            f"unit={self.unit!r} has no spans. Set unit='span' or leave it out.",
            *("span_p", "max_span_words"),
        )

    @property
    def is_constant(self) -> bool:
        """Whether the rate of training never changes."""
        return self.end_rate in (None, self.rate)

    @property
    def for_evaluation(self) -> "MaskingConfig":
        """These settings with `eval_rate` as the rate."""
        return dataclasses.replace(self, rate=self.eval_rate, end_rate=None)

    @property
    def is_judged_alike(self) -> bool:
        """Whether training hides the same fraction of tokens as evaluation."""
        return self.is_constant and self.rate == self.eval_rate

    def num_slots(self, length: int) -> int:
        """Most masked positions of a row of `length` tokens at any time; at least one."""
        slots = max(1, round(max(self.rate, self.end_rate or 0.0) * length))
        return slots if self.max_slots is None else min(slots, self.max_slots)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How pairs are made from a prepared dataset and put into rows."""

    dataset: pathlib.Path | None = None
    """Directory written by `bert-jax prepare`, or its address in a bucket (gs://..., s3://...)."""
    mixture: tuple[pathlib.Path, ...] = ()
    """Several such directories instead of one, to train on together. They need the same
    tokenizer. Each goes through its own epochs, and is judged apart."""
    weights: tuple[float, ...] = ()
    """One weight for each directory of the mixture. Its share in the rows of every batch is
    its weight divided by the sum of all. Default: the tokens of each."""
    sequence_length: int = 128
    """T: tokens of a row. With buckets: tokens of the longest rows."""
    pairs: Literal["next_sentence", "sentence_order", "none"] = "next_sentence"
    """What the text of a row consists of. next_sentence: BERT's pairs, with the label "B
    follows A" or "B is random". sentence_order: ALBERT's pairs, with the label "in order"
    or "swapped". none: single segments without a label; each is as long as a row, or the
    end of its document, and may begin and end inside a sentence."""
    short_pair_rate: float = 0.1
    """Fraction of documents whose pairs or segments get a random length instead of T."""
    layout: Literal["packed", "buckets", "padded"] = "packed"
    """How rows are filled. packed: several pairs share a row and cannot attend to each
    other. buckets: a row holds one pair and has one of a few lengths, the same for all
    rows of a batch. padded: a row holds one pair and padding."""
    max_pairs_per_row: int = 8
    """P: most pairs of a packed row."""
    bucket_lengths: tuple[int, ...] = ()
    """Row lengths for --data.layout buckets, ascending to T. A batch of rows of length L
    has batch_size * (T // L) rows. Default: a quarter of T, half of T, and T."""
    num_threads: int = 2
    """Threads of each process that build batches ahead of time."""
    num_workers: int = 0
    """Processes that build batches ahead of time; 0 uses threads of this process."""
    plan_dir: pathlib.Path | None = None
    """Folder for the plans of epochs. Default: index/plans in the dataset's folder, or in
    the user's cache if the dataset cannot be written to."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require_positive(self, "max_pairs_per_row", "num_threads")
        require_workers(self, "num_threads", "num_workers")
        require_rate(self, "short_pair_rate")
        require(
            self.dataset is None or not self.mixture,
            f"DataConfig.dataset={self.dataset} and DataConfig.mixture both say what to "
            "train on; put the dataset into the mixture, or leave one of them out.",
        )
        require_weights("DataConfig.weights", self.weights, len(self.mixture))
        require(
            8 <= self.sequence_length < 2**16,
            f"DataConfig.sequence_length={self.sequence_length} is not in [8, 65536); a "
            "pair with its special tokens needs at least 8.",
        )
        require_not_negative(self, "num_workers")
        require_used(
            self,
            self.layout == "buckets",
            f"layout={self.layout!r} has no buckets. Set layout='buckets' or leave it out.",
            "bucket_lengths",
        )
        require(
            sorted(set(self.buckets)) == list(self.buckets)
            and self.buckets[0] >= 8
            and self.buckets[-1] == self.sequence_length,
            f"DataConfig.bucket_lengths={self.bucket_lengths} must ascend from at least "
            f"8 and end with sequence_length={self.sequence_length}.",
        )

    @property
    def datasets(self) -> tuple[pathlib.Path, ...]:
        """The directories to train on; none if no dataset is given."""
        return self.mixture or (() if self.dataset is None else (self.dataset,))

    @property
    def has_labels(self) -> bool:
        """Whether pairs have a label to predict."""
        return self.pairs != "none"

    @property
    def pairs_per_row(self) -> int:
        """Most pairs of a row in this layout."""
        return self.max_pairs_per_row if self.layout == "packed" else 1

    @property
    def without_buckets(self) -> "DataConfig":
        """These settings, but with layout "padded" instead of "buckets"."""
        if self.layout != "buckets":
            return self
        return dataclasses.replace(self, layout="padded", bucket_lengths=())

    @property
    def buckets(self) -> tuple[int, ...]:
        """Row lengths of the layout "buckets", ascending."""
        longest = self.sequence_length
        shorter = (n for n in (longest // 4, longest // 2) if n >= 8)
        return self.bucket_lengths or (*shorter, longest)
