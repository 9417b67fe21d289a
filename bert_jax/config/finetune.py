"""One fine-tuning run and its labelled text."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from bert_jax.config.checks import require, require_positive, require_seed
from bert_jax.config.compute import ComputeConfig
from bert_jax.config.dropout import DropoutConfig
from bert_jax.config.loop import LoopConfig
from bert_jax.config.lora import LoraConfig
from bert_jax.config.mesh import MeshConfig
from bert_jax.config.optimizer import OptimizerConfig

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileConfig:
    """How a file of labelled text is read: its columns, its signs and its bytes."""

    text: tuple[str, ...] = ()
    """Column of the text, or the two columns of a pair of texts. Default: found by their
    usual names, such as text, sentence, or sentence1 and sentence2."""
    label: str | None = None
    """Column of the label. Default: found by its usual names, such as label or class."""
    header: bool = True
    """Whether the first line of a .tsv, .csv or .txt names the columns. Without such a
    line, columns are given by their number, from 1."""
    delimiter: str | None = None
    """The character between two fields; "tab" means a tab. Default: a comma in .csv and a
    tab in .tsv and .txt, or the only one of tab, comma, semicolon and | in the header."""
    quotes: Literal["auto", "csv", "text"] = "auto"
    """What quotation marks mean. csv: they enclose a field and are doubled inside it.
    text: they are part of the text. auto: csv where fields are separated by commas or
    semicolons; else csv if every mark of the file belongs to a field that begins and
    ends with one and doubles those inside it, as pandas writes them; else text."""
    encoding: str = "utf-8"
    """How the bytes of a file become letters, such as utf-8, latin-1 or cp1252. UTF-16 is
    recognised by the mark at its beginning."""
    skip_incomplete: bool = False
    """Leave out rows without text or without label, and say how many. Default: such a row
    is an error."""

    def __post_init__(self) -> None:
        require(
            len(self.text) <= 2,
            f"{type(self).__name__}.text={self.text} must name one column or two.",
        )
        columns = (*self.text, *filter(None, [self.label]))
        require_numbers(self, columns)
        require(
            len(set(columns)) == len(columns),
            f"{type(self).__name__}.text={self.text} and label="
            f"{self.label!r} name one column twice; give each its own.",
        )
        require(
            self.delimiter is None or len(self.separator or "") == 1,
            f"{type(self).__name__}.delimiter={self.delimiter!r} is not one character; "
            "give one such as ';', or the word tab.",
        )
        try:
            "a".encode(self.encoding)
        except LookupError:
            raise ValueError(
                f"{type(self).__name__}.encoding={self.encoding!r} is no encoding of text "
                "that Python knows; give one such as utf-8, latin-1, cp1252 or utf-16."
            ) from None

    @property
    def separator(self) -> str | None:
        """The delimiter itself."""
        return {"tab": "\t", "\\t": "\t"}.get(self.delimiter or "", self.delimiter)


def require_numbers(cfg: FileConfig, columns: tuple[str, ...]) -> None:
    """Requires that columns are given by number where no line names them."""
    for column in () if cfg.header else columns:
        require(
            column.isascii() and column.isdecimal() and int(column) > 0,
            f"{type(cfg).__name__}.header=False leaves columns without names, but one is "
            f"given as {column!r}; give text and label columns by number, from 1.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(FileConfig):
    """Labelled text: where it is, which columns hold what, and what the labels mean."""

    train: pathlib.Path | None = None
    """File to train on: texts with a label each in a .tsv, .csv, .txt, .jsonl or .parquet,
    or a folder that holds a folder of text files for each class."""
    dev: pathlib.Path | None = None
    """File of the same form to judge on. Nothing in it is trained on."""
    dev_text: tuple[str, ...] | None = None
    """The text columns of the validation file, where it names them otherwise."""
    dev_label: str | None = None
    """The label column of the validation file, where it names it otherwise."""
    kind: Annotated[
        Literal["classification", "regression", "tokens", "spans"],
        tyro.conf.arg(name="task"),
    ] = "classification"
    """What is learned. classification: a class for each text or pair of texts.
    regression: a number for each, trained by its squared error. tokens: a tag for each
    word of a sentence, from a file with a word and its tag a line. spans: the words of a
    passage that answer a question, from a .json in the form of SQuAD."""
    max_train: int | None = None
    """Largest number of examples to train on: a random choice of the file's examples,
    equal in every run, with every class in its share. Default: all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        others = self.dev_text
        require(
            others is None or not self.text or len(others) == len(self.text),
            f"TaskConfig.dev_text={others} and text="
            f"{self.text} differ in number; both name one text, or both a pair.",
        )
        require(
            self.max_train is None or self.max_train > 0,
            f"TaskConfig.max_train={self.max_train} must be greater than 0.",
        )
        label = self.dev_label
        require_numbers(self, (*(others or ()), *filter(None, [label])))

    def refuse_columns(self) -> None:
        """For tasks whose files have no columns to choose from.

        Raises:
            ValueError: a field that names columns is set.
        """
        columns = ("text", "label", "dev_text", "dev_label")
        ignored = (*columns, "header", "delimiter", "quotes", "skip_incomplete")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                field.name not in ignored or value == field.default,
                f"TaskConfig.{field.name}={value!r} would be ignored: the files of "
                f"--task {self.kind} have no columns to choose from. Leave it out.",
            )

    def of_split(self, split: Split) -> "TaskConfig":
        """With the columns of that split's file as `text` and `label`."""
        if split == "train":
            return self
        return dataclasses.replace(
            self,
            text=self.dev_text or self.text,
            label=self.dev_label or self.label,
            dev_text=None,
            dev_label=None,
        )

    def with_file(self, file: FileConfig) -> "TaskConfig":
        """With these settings for reading a file, for both splits."""
        given = {f.name: getattr(file, f.name) for f in dataclasses.fields(FileConfig)}
        return dataclasses.replace(self.of_split("validation"), **given)

    @property
    def file(self) -> FileConfig:
        """How the validation file is read."""
        of_split = self.of_split("validation")
        names = [field.name for field in dataclasses.fields(FileConfig)]
        return FileConfig(**{name: getattr(of_split, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tuning run: a pretrained encoder learns a task of labelled text."""

    checkpoint: pathlib.Path | None = None
    """Run directory of `pretrain` or `import`, which gives architecture, tokenizer and
    weights, or a model of Hugging Face or Google, which is imported into
    OUTPUT-checkpoint. `finetune RUN` is short for `finetune --checkpoint RUN`."""
    from_scratch: bool = False
    """Take architecture and tokenizer of the checkpoint, but random weights. The score
    beside it shows what pretraining is worth."""
    task: Annotated[TaskConfig, tyro.conf.arg(name="")] = TaskConfig()
    compute: ComputeConfig = ComputeConfig()
    dropout: DropoutConfig = DropoutConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, warmup_steps=0.1)
    head_only: bool = False
    """Train the head alone, on top of the encoder as it is: fast, and for little data. It
    needs a higher learning rate than training all weights, about 1e-3. To freeze less, name
    parts in --optimizer.freeze and give --optimizer.freeze-layers."""
    lora: Annotated[LoraConfig, tyro.conf.arg(name="")] = LoraConfig()
    loop: LoopConfig = LoopConfig(log_every_steps=20, eval_every_steps=None)
    sequence_length: int = 128
    """Tokens of a row. Longer texts are cut."""
    batch_size: int = 32
    """Rows of the global batch."""
    num_epochs: int = 3
    """How often training goes through all examples."""
    patience: int | None = None
    """End training after so many evaluations in a row without gain in the first metric of
    the task. The best state counts in any case. Default: go through all epochs."""
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
        require(
            not self.head_only or not self.lora.rank,
            f"FinetuneConfig.head_only and LoraConfig.rank={self.lora.rank} exclude each "
            "other: LoRA changes the encoder. Leave one of the two out.",
        )
        freezes = self.optimizer.freeze or self.optimizer.freeze_layers
        require(
            not freezes or not (self.head_only or self.lora.rank),
            f"OptimizerConfig.freeze={self.optimizer.freeze} and freeze_layers="
            f"{self.optimizer.freeze_layers} would be ignored: --head-only and --lora-rank "
            "freeze the whole encoder. Leave them out.",
        )
        require(
            not self.head_only or self.optimizer.layer_decay == 1.0,
            f"OptimizerConfig.layer_decay={self.optimizer.layer_decay} would be ignored: "
            "with --head-only no layer is trained. Leave it out.",
        )
        require(
            self.patience is None or self.patience > 0,
            f"FinetuneConfig.patience={self.patience} must be greater than 0.",
        )
        require(
            self.patience is None or self.loop.eval_every_steps != 0,
            f"FinetuneConfig.patience={self.patience} would be ignored: with "
            "LoopConfig.eval_every_steps=0 there is one evaluation, at the end. Leave one "
            "of the two out.",
        )
