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
    """File to train on. Texts with a label: .tsv (tabs, no quoting), .csv or .jsonl."""
    validation: pathlib.Path | None = None
    """File of the same form to judge on. Nothing in it is trained on."""
    header: bool = True
    """Whether the first line of a .tsv or .csv names the columns. Without such a line,
    columns are given by their number, from 1."""
    text_columns: tuple[str, ...] = ("text",)
    """Column of the text, or the two columns of a pair of texts."""
    label_column: str = "label"
    """Column of the label."""
    validation_text_columns: tuple[str, ...] | None = None
    """The text columns of the validation file, where it names them otherwise."""
    validation_label_column: str | None = None
    """The label column of the validation file, where it names it otherwise."""
    kind: Literal["classification", "regression", "tokens", "spans"] = "classification"
    """What is learned. classification: a class for each text or pair of texts.
    regression: a number for each, trained by its squared error. tokens: a tag for each
    word of a sentence, from a file with a word and its tag a line. spans: the words of a
    passage that answer a question, from a .json in the form of SQuAD."""
    max_train: int | None = None
    """Largest number of examples to train on: a random choice of the file's examples,
    equal in every run. Default: all of them."""

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

    def refuse_columns(self) -> None:
        """For tasks whose files have no columns to choose from.

        Raises:
            ValueError: a field that names columns is set.
        """
        for field in dataclasses.fields(self):
            named = field.name == "header" or "column" in field.name
            value = getattr(self, field.name)
            require(
                not named or value == field.default,
                f"TaskConfig.{field.name}={value!r} would be ignored: the files of "
                f"kind={self.kind!r} have no columns to choose from. Leave it out.",
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
    """One fine-tuning run: a pretrained encoder learns a task of labelled text."""

    checkpoint: pathlib.Path | None = None
    """Run directory of `pretrain` or `import`, which gives architecture, tokenizer and
    weights, or a model of Hugging Face or Google, which is imported into
    OUTPUT-checkpoint."""
    from_scratch: bool = False
    """Take architecture and tokenizer of the checkpoint, but random weights. The score
    beside it shows what pretraining is worth."""
    task: TaskConfig = TaskConfig()
    compute: ComputeConfig = ComputeConfig()
    dropout: DropoutConfig = DropoutConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    loop: LoopConfig = LoopConfig(log_every_steps=20, eval_every_steps=0)
    warmup_share: float = 0.1
    """Share of all updates during which the learning rate rises."""
    sequence_length: int = 128
    """Tokens of a row. Longer texts are cut."""
    batch_size: int = 32
    """Rows of the global batch."""
    num_epochs: int = 3
    """How often training goes through all examples."""
    seed: int = 0
    """Seed of every random choice: parameters of the head, order of examples, dropout."""

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
