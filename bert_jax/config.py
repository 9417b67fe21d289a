"""Every setting of every command, as frozen dataclasses that check themselves.

Python files in `configs/` build these; the command line overrides single fields; a
run directory stores them whole (`config_json.py`).
"""

import dataclasses
import pathlib
from typing import Literal


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_rate(owner: object, *names: str) -> None:
    """Probabilities lie in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        _require(
            0.0 <= value < 1.0,
            f"{type(owner).__name__}.{name}={value} is not in [0, 1).",
        )


def _require_seed(owner: object) -> None:
    seed = vars(owner)["seed"]
    _require(
        0 <= seed < 2**32, f"{type(owner).__name__}.seed={seed} is not in [0, 2**32)."
    )


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        _require(
            value > 0,
            f"{type(owner).__name__}.{name}={value} must be greater than 0.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of one encoder. Defaults are BERT-Base (Devlin et al. 2018)."""

    vocab_size: int = 30_522
    """Pieces of the tokenizer; the token table is padded to a multiple of 128."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_size: int = 3_072
    max_positions: int = 512
    """Rows of the learned position table: the longest sequence."""
    num_segments: int = 2
    gelu: Literal["tanh", "exact"] = "tanh"
    """google-research/bert uses the tanh approximation, Hugging Face's "gelu" erf."""
    dropout_rate: float = 0.1
    """Probability that one hidden unit is zeroed."""
    attention_dropout_rate: float = 0.1
    """Probability that one attention weight is zeroed."""
    layer_norm_eps: float = 1e-12
    init_std: float = 0.02
    """Truncated normal, cut at two deviations and not rescaled."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; parameters, softmax, norms and losses stay float32."""
    scan_layers: bool = True
    """One compiled layer in a loop (fast to compile) or all of them in a row."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but matrix products, all."""

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "mlp_size",
            "max_positions",
            "num_segments",
            "layer_norm_eps",
            "init_std",
        )
        _require_rate(self, "dropout_rate", "attention_dropout_rate")
        _require(
            self.hidden_size % self.num_heads == 0,
            f"ModelConfig.hidden_size={self.hidden_size} must divide evenly by "
            f"num_heads={self.num_heads}; the remainder is "
            f"{self.hidden_size % self.num_heads}.",
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table: a multiple of 128, so that any mesh divides it."""
        return -(-self.vocab_size // 128) * 128


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
        _require(
            0.0 < self.rate < 1.0, f"MaskingConfig.rate={self.rate} is not in (0, 1)."
        )
        for name in ("mask_share", "random_share"):
            value = getattr(self, name)
            _require(
                0.0 <= value <= 1.0, f"MaskingConfig.{name}={value} is not in [0, 1]."
            )
        _require(
            self.mask_share + self.random_share <= 1.0 + 1e-9,
            f"MaskingConfig.mask_share={self.mask_share} and "
            f"random_share={self.random_share} add up to more than 1.",
        )
        if self.max_slots is not None:
            _require_positive(self, "max_slots")
        _require(
            0.0 < self.span_p <= 1.0,
            f"MaskingConfig.span_p={self.span_p} is not in (0, 1].",
        )
        _require_positive(self, "max_span_words")
        for name in ("span_p", "max_span_words"):
            value, default = getattr(self, name), getattr(MaskingConfig, name)
            _require(
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
        _require_positive(self, "max_pairs_per_row", "num_threads")
        _require_rate(self, "short_pair_rate")
        _require(
            8 <= self.sequence_length < 2**16,
            f"DataConfig.sequence_length={self.sequence_length} is not in [8, 65536); a "
            "pair with its special tokens needs at least 8.",
        )
        _require(
            self.num_workers >= 0,
            f"DataConfig.num_workers={self.num_workers} must not be negative.",
        )
        _require(
            self.layout == "buckets" or not self.bucket_lengths,
            f"DataConfig.bucket_lengths={self.bucket_lengths} would be ignored: layout="
            f"{self.layout!r} has no buckets. Set layout='buckets' or leave it out.",
        )
        _require(
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each mesh axis has. One axis may be -1: all that remain."""

    data: int = -1
    """Copies of the model, each with its own rows."""
    fsdp: int = 1
    """Rows again, with parameters and optimizer state split."""
    tensor: int = 1
    """Attention heads and feed-forward units split."""

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        _require(
            all(size == -1 or size > 0 for size in sizes) and sizes.count(-1) <= 1,
            f"MeshConfig data={self.data}, fsdp={self.fsdp}, tensor={self.tensor}: "
            "each must be greater than 0, and one of them may be -1.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as BERT had it (google-research/bert, optimization.py)."""

    learning_rate: float = 1e-4
    """At the top of the warm-up."""
    warmup_steps: int = 10_000
    """Linear from 0; the decay that follows is counted over all steps."""
    weight_decay: float = 0.01
    """Decoupled; not on biases and layer norms."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    clip_norm: float = 1.0
    """Largest global norm of the gradients."""

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate", "eps", "clip_norm")
        _require_rate(self, "b1", "b2")
        for name in ("warmup_steps", "weight_decay"):
            _require(
                getattr(self, name) >= 0,
                f"OptimizerConfig.{name}={getattr(self, name)} must not be negative.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often a training loop logs, evaluates and saves."""

    log_every_steps: int = 100
    eval_every_steps: int = 10_000
    """0 evaluates at the end only."""
    checkpoint_every_steps: int = 1_000
    """A checkpoint is also written at the end and when the run is interrupted."""
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        _require_positive(
            self, "log_every_steps", "checkpoint_every_steps", "keep_checkpoints"
        )
        _require(
            self.eval_every_steps >= 0,
            f"LoopConfig.eval_every_steps={self.eval_every_steps} is negative.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run. Defaults are BERT-Base, phase 1 (Devlin et al. 2018)."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    masking: MaskingConfig = MaskingConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig = LoopConfig()
    checkpoint: pathlib.Path | None = None
    """Run directory to start from (`pretrain` or `import`); else random weights."""
    moments: Literal["fresh", "keep"] = "fresh"
    """Of a start from a checkpoint: zeros, or its own, as BERT's second phase did."""
    batch_size: int = 256
    """Rows of the global batch; with buckets, of a batch of the longest."""
    num_steps: int = 900_000
    eval_batches: int = 64
    """Batches of the validation split, with masks that never change."""
    seed: int = 0
    """Of parameters, pairs, masks and dropout."""

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size", "num_steps", "eval_batches")
        _require_seed(self)
        _require(
            self.moments == "fresh" or self.checkpoint is not None,
            "PretrainConfig.moments='keep' needs a checkpoint to keep them from.",
        )
        _require(
            self.data.sequence_length <= self.model.max_positions,
            f"DataConfig.sequence_length={self.data.sequence_length} exceeds "
            f"ModelConfig.max_positions={self.model.max_positions}; shorten the "
            "sequences or enlarge the table.",
        )
        _require(
            self.optimizer.warmup_steps < self.num_steps,
            f"OptimizerConfig.warmup_steps={self.optimizer.warmup_steps} is not less "
            f"than PretrainConfig.num_steps={self.num_steps}; the rate would never "
            "reach its top.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Labelled text: where it is and which columns hold what."""

    train: pathlib.Path | None = None
    """.tsv, .csv or .jsonl with a header."""
    validation: pathlib.Path | None = None
    """The same columns; scored after training, never trained on."""
    text_columns: tuple[str, ...] = ("text",)
    """One column, or two for tasks over pairs of sentences."""
    label_column: str = "label"

    def __post_init__(self) -> None:
        _require(
            len(self.text_columns) in (1, 2),
            f"TaskConfig.text_columns={self.text_columns} must name one column or two.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tuning run: a classifier over [CLS]."""

    checkpoint: pathlib.Path | None = None
    """Run directory of `pretrain`: architecture, tokenizer and weights."""
    from_scratch: bool = False
    """Take architecture and tokenizer only: what pretraining is worth."""
    task: TaskConfig = TaskConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    loop: LoopConfig = LoopConfig(log_every_steps=20, eval_every_steps=0)
    warmup_share: float = 0.1
    """Share of all steps; takes the place of the optimizer's `warmup_steps`."""
    dropout_rate: float = 0.1
    """Hidden, attention and classifier dropout while fine-tuning."""
    sequence_length: int = 128
    """Longer texts are cut."""
    batch_size: int = 32
    num_epochs: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size", "num_epochs")
        _require_seed(self)
        _require(
            self.sequence_length >= 8,
            f"FinetuneConfig.sequence_length={self.sequence_length} is too short; a "
            "text with its special tokens needs at least 8.",
        )
        _require_rate(self, "dropout_rate", "warmup_share")
        _require(
            self.optimizer.warmup_steps == 0,
            f"OptimizerConfig.warmup_steps={self.optimizer.warmup_steps} would be "
            "ignored: fine-tuning takes FinetuneConfig.warmup_share.",
        )
