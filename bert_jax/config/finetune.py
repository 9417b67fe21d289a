"""One fine-tuning run and its labelled text."""

import dataclasses
import pathlib
from typing import Literal

from bert_jax.config.checks import require, require_positive, require_rate, require_seed
from bert_jax.config.compute import ComputeConfig
from bert_jax.config.dropout import DropoutConfig
from bert_jax.config.loop import LoopConfig
from bert_jax.config.mesh import MeshConfig
from bert_jax.config.optimizer import OptimizerConfig

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Labelled text: where it is, which columns hold what, and what the labels mean."""

    train: pathlib.Path | None = None
    """.tsv (tabs, no quoting), .csv or .jsonl."""
    validation: pathlib.Path | None = None
    """Of the same form; scored after training, never trained on."""
    header: bool = True
    """The first line of a .tsv or .csv names the columns. Without one, columns are given
    by their number, from 1."""
    text_columns: tuple[str, ...] = ("text",)
    """One column, or two for tasks over pairs of sentences."""
    label_column: str = "label"
    validation_text_columns: tuple[str, ...] | None = None
    """Where the validation file calls them otherwise (SST-2 does)."""
    validation_label_column: str | None = None
    kind: Literal["classification", "regression"] = "classification"
    """classification: labels are names of classes, trained with cross-entropy.
    regression: labels are numbers, trained with their squared error."""
    max_train: int | None = None
    """Train on at most so many examples: a random choice, equal in every run."""

    def __post_init__(self) -> None:
        require(
            len(self.text_columns) in (1, 2),
            f"TaskConfig.text_columns={self.text_columns} must name one column or two.",
        )
        others = self.validation_text_columns
        require(
            others is None or len(others) == len(self.text_columns),
            f"TaskConfig.validation_text_columns={others} and text_columns="
            f"{self.text_columns} differ in number; both name one text, or both a pair.",
        )
        require(
            self.max_train is None or self.max_train > 0,
            f"TaskConfig.max_train={self.max_train} must be greater than 0.",
        )
        named = (*self.columns("train"), *self.columns("validation"))
        for column in () if self.header else named:
            require(
                column.isascii() and column.isdecimal() and int(column) > 0,
                f"TaskConfig.header=False leaves columns without names, but one is given "
                f"as {column!r}; give text and label columns by number, from 1.",
            )

    def columns(self, split: Split) -> tuple[str, ...]:
        """Of a split's file: the texts' columns, then that of the label."""
        texts, label = self.text_columns, self.label_column
        if split == "validation":
            texts = self.validation_text_columns or texts
            label = self.validation_label_column or label
        return (*texts, label)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tuning run: a classifier, or one number, over [CLS]."""

    checkpoint: pathlib.Path | None = None
    """Run directory of `pretrain`: architecture, tokenizer and weights."""
    from_scratch: bool = False
    """Take architecture and tokenizer only: what pretraining is worth."""
    task: TaskConfig = TaskConfig()
    compute: ComputeConfig = ComputeConfig()
    dropout: DropoutConfig = DropoutConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    loop: LoopConfig = LoopConfig(log_every_steps=20, eval_every_steps=0)
    warmup_share: float = 0.1
    """Share of all steps; takes the place of the optimizer's `warmup_steps`."""
    sequence_length: int = 128
    """Longer texts are cut."""
    batch_size: int = 32
    num_epochs: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "num_epochs")
        require_seed(self)
        require(
            self.sequence_length >= 8,
            f"FinetuneConfig.sequence_length={self.sequence_length} is too short; a "
            "text with its special tokens needs at least 8.",
        )
        require_rate(self, "warmup_share")
        require(
            self.optimizer.warmup_steps == 0,
            f"OptimizerConfig.warmup_steps={self.optimizer.warmup_steps} would be "
            "ignored: fine-tuning takes FinetuneConfig.warmup_share.",
        )
