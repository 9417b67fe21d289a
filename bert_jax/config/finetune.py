"""One fine-tuning run and its labelled text."""

import dataclasses
import pathlib
from types import NoneType
from typing import Annotated, Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_positive,
    require_rate,
    require_seed,
    require_step,
    require_type,
    require_used,
)
from bert_jax.config.compute import ComputeConfig
from bert_jax.config.dropout import DropoutConfig
from bert_jax.config.flags import box, flag
from bert_jax.config.loop import LoopConfig
from bert_jax.config.lora import LoraConfig
from bert_jax.config.mesh import MeshConfig
from bert_jax.config.optimizer import OptimizerConfig

_MOST_EPOCHS = 100_000
Split = Literal["train", "validation"]
TaskName = Literal[
    "classification",
    "multilabel",
    "regression",
    "tokens",
    "spans",
    "choice",
    "embeddings",
    "glue/cola",
    "glue/sst2",
    "glue/mrpc",
    "glue/qqp",
    "glue/stsb",
    "glue/mnli",
    "glue/qnli",
    "glue/rte",
    "glue/wnli",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileConfig:
    """How a file of labelled text is read: its columns, its signs and its bytes."""

    text: tuple[str, ...] = ()
    """Column of the text, or the two columns of a pair of texts. Default: found by their
    usual names, such as text, sentence, or sentence1 and sentence2."""
    label: str | None = None
    """Column of the label. Default: found by its usual names, such as label or class."""
    label_columns: tuple[str, ...] = ()
    """For --task multilabel: the columns that hold 1 or 0, one column for each label. The
    names of the columns are the labels. Default: one column, --label, lists the labels."""
    label_separator: str | None = None
    """For --task multilabel: the character between two labels in one field. Default: the
    one of | ; and , that the label column holds."""
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
        require_fitting(self)
        for name in ("text", "label_columns"):
            require_type(name, getattr(self, name), tuple, list)
        for name in ("label", "label_separator", "delimiter"):
            require_type(name, getattr(self, name), str, NoneType)
        require_type("encoding", self.encoding, str)
        require(
            len(self.text) <= 2,
            f"{type(self).__name__}.text={self.text} must name one column or two.",
        )
        columns = (*self.text, *filter(None, [self.label]), *self.label_columns)
        require_numbers(self, columns)
        require(
            len(set(columns)) == len(columns),
            f"{type(self).__name__}.text={self.text}, label={self.label!r} and "
            f"label_columns={self.label_columns} name one column twice; give each its own.",
        )
        require(
            self.label is None or not self.label_columns,
            f"{type(self).__name__}.label={self.label!r} and label_columns="
            f"{self.label_columns} both say where the labels are; give one of them.",
        )
        require(
            self.label_separator is None or len(self.label_separator) == 1,
            f"{type(self).__name__}.label_separator={self.label_separator!r} is not one "
            "character; give one such as '|'.",
        )
        require(
            self.delimiter is None or len(self.separator or "") == 1,
            f"{type(self).__name__}.delimiter={self.delimiter!r} is not one character; "
            "give one such as ';', or the word tab.",
        )
        try:
            "a".encode(self.encoding)
        except (LookupError, UnicodeError):  # the encoding `undefined` has no letters
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
class _Learned:
    """What is learned, and from which files; the first fields of `TaskConfig`."""

    train: pathlib.Path | None = None
    """File to train on: texts with a label each in a .tsv, .csv, .txt, .jsonl or .parquet,
    a folder that holds a folder of text files for each class, or the directory of one
    version of a dataset of TFDS."""
    dev: float | pathlib.Path | None = None
    """File of the same form to judge on, or the share of the training file's examples to
    set aside for it, such as 0.1. Nothing that is judged on is trained on."""
    kind: "Annotated[TaskName, flag(name='task')]" = "classification"
    """What is learned. classification: a class for each text or pair of texts.
    multilabel: any number of labels for each, which do not exclude each other.
    regression: a number for each, trained by its squared error. tokens: a tag for each
    word of a sentence, from a file with a word and its tag a line, CoNLL-U, or lists of
    both in a .jsonl or .parquet. spans: the words of a passage that answer a question, from
    SQuAD's .json, or a .jsonl or .parquet with its fields. choice: the right one of several
    choices, given a text or two. embeddings: a vector for each text, from pairs of texts;
    vectors of texts that belong together point the same way. glue/NAME: a task of GLUE
    with its official metrics; --train is the directory of its official files (train.tsv,
    dev.tsv), or left out for the dataset of TFDS on this machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(FileConfig, _Learned):
    """Labelled text: where it is, which columns hold what, and what the labels mean."""

    dev_text: tuple[str, ...] | None = None
    """The text columns of the validation file, where it names them otherwise."""
    dev_label: str | None = None
    """The label column of the validation file, where it names it otherwise."""
    max_train: int | None = None
    """Largest number of examples to train on: a random choice of the file's examples,
    with every class in its share. Default: all of them."""
    shots: int | None = None
    """Number of examples of each class to train on, drawn at random. Default: all of
    them."""
    draw_seed: int = 0
    """Seed of the random choices that --dev SHARE, --max-train and --shots make. Runs with
    the same --draw-seed have the same examples, whatever their --seed."""
    choices: tuple[str, ...] = ()
    """For --task choice: the columns of the choices, or the one that holds a list of them.
    Default: found by their usual names, such as ending0, ending1, … or choices."""
    pairs: Literal["auto", "scored", "matching"] = "auto"
    """For --task embeddings: what a row says of its two texts. scored: how similar they
    are, by the number in the label column; the cosine of their vectors learns it.
    matching: the second one belongs to the first; it learns to be nearer to the first
    than the second texts of all other rows of the batch (--batch-size, over all devices).
    auto: scored if there is a label column, else matching."""
    negative: str | None = None
    """For --task embeddings: column of a third text that looks as if it belonged to the
    first one, but does not. Default: found by its usual names, such as negative."""
    score_range: tuple[float, float] | None = None
    """For --task embeddings: the scores that mean a cosine of 0 and of 1. Default: 0 and 5
    if a score of the training file is greater than 1, else 0 and 1."""
    pooling: Literal["mean", "cls"] | None = None
    """For --task embeddings: which vector a text gets. mean: the mean of its tokens'
    vectors. cls: the vector of [CLS]. Default: as the checkpoint has it, if that is a run
    of --task embeddings, else mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        others = self.dev_text
        require(
            others is None or not self.text or len(others) == len(self.text),
            f"TaskConfig.dev_text={others} and text="
            f"{self.text} differ in number; both name one text, or both a pair.",
        )
        require_positive(self, "max_train", "shots")
        require(
            self.shots is None or self.max_train is None,
            f"TaskConfig.shots={self.shots} and max_train={self.max_train} both say how "
            "many examples are trained on; give one of them.",
        )
        require(
            not isinstance(self.dev, float) or 0.0 < self.dev <= 0.5,
            f"TaskConfig.dev={self.dev} is no share of the training file from 0 to 0.5; "
            "give one such as 0.1, or a file.",
        )
        require_used(
            self,
            not isinstance(self.dev, float),
            f"dev={self.dev} is a share of the training file. Leave it out.",
            *("dev_text", "dev_label"),
        )
        low, high = self.score_range or (0.0, 1.0)
        require(
            low < high,
            f"TaskConfig.score_range={self.score_range} must name a smaller number and "
            "then a greater one.",
        )
        require_used(
            self,
            self.pairs != "matching",
            "with pairs='matching' a row has no score. Leave one of the two out.",
            *("score_range", "label"),
        )
        require_used(
            self,
            self.pairs != "scored",
            "with pairs='scored' a row has two texts. Leave one of the two out.",
            "negative",
        )
        require_seed(self, "draw_seed")
        draws = isinstance(self.dev, float) or self.max_train or self.shots
        require_used(
            self,
            bool(draws),
            "nothing is drawn. Leave it out, or give dev a share, or max_train or shots.",
            "draw_seed",
        )
        label = self.dev_label
        require_numbers(self, (*(others or ()), *filter(None, [label])))

    def refuse_columns(self, *used: str) -> None:
        """For tasks whose files are no tables of texts.

        Args:
            used: fields that the task has a use for.

        Raises:
            ValueError: another field that says how a table of texts is read is set.
        """
        columns = ("text", "label", "label_columns", "dev_text", "dev_label")
        signs = ("label_separator", "header", "delimiter", "quotes")
        ignored = {*columns, *signs, "skip_incomplete"} - {*used}
        names = (f.name for f in dataclasses.fields(self) if f.name in ignored)
        why = f"--task {self.kind} has no use for it. Leave it out."
        require_used(self, False, why, *names)

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
    """Run directory, which gives architecture, tokenizer and weights, or a model of
    Hugging Face or Google, which is imported into OUTPUT-checkpoint. It may be in a
    bucket (gs://..., s3://...). `finetune RUN` is short for `finetune --checkpoint
    RUN`. Of a run of `finetune` the encoder is taken, and its head too where task
    and outputs, such as the classes, are the same."""
    num_epochs: int = 3
    """How often training goes through all examples."""
    batch_size: int = 32
    """Rows of the global batch."""
    sequence_length: int | None = None
    """Largest number of tokens of a row. Default: the length that 99 % of the training
    examples fit into, at most the positions of the encoder."""
    long_texts: Literal["cut", "head-tail", "windows"] = "cut"
    """What is done with a text that does not fit into a row. cut: its end is left out.
    head-tail: its middle is left out, so that a quarter of the row has its first tokens
    and the rest its last tokens. windows: it becomes several rows that overlap, and the
    mean of their logits is its answer."""
    patience: int | None = None
    """End training after so many evaluations in a row without gain in the first metric of
    the task. The best state counts in any case. Default: go through all epochs."""
    class_weights: tuple[str, ...] = ()
    """How much an example of each class counts in the loss. balanced: each class counts
    the same in total. LABEL=WEIGHT, for some classes or all: this weight, and 1 for the
    others. Default: every example counts the same."""
    label_smoothing: float = 0.0
    """Share of the probability that the loss spreads over all classes, in place of
    giving all of it to the label."""
    head_only: bool = False
    """Train the head alone, on top of the encoder as it is: fast, and for little data. It
    needs a higher learning rate than training all weights, about 1e-3. To freeze less, name
    parts in --optimizer.freeze and give --optimizer.freeze-layers."""
    from_scratch: bool = False
    """Take architecture and tokenizer of the checkpoint, but random weights. The score
    beside it shows what pretraining is worth."""
    seed: int = 0
    """Seed of every random choice: parameters of the head, order of examples, dropout."""
    checkpoint_step: int | None = None
    """Step of the checkpoint's run that gives the weights. Default: its best one, or its
    newest one where none was judged the best."""
    stride: int | None = None
    """Tokens from the beginning of a row to that of the next, where a text becomes several
    rows: a long sentence (--task tokens), a long passage (spans), or any text with
    --long-texts windows. Default: half of what a row has room for."""
    max_answer_tokens: int = 30
    """Most tokens of an answer that is predicted (--task spans)."""
    task: "Annotated[TaskConfig, *box('labelled text')]" = TaskConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, warmup_steps=0.1)
    lora: "Annotated[LoraConfig, *box('LoRA')]" = LoraConfig()
    loop: LoopConfig = LoopConfig(log_every_steps=20, eval_every_steps=None)
    dropout: DropoutConfig = DropoutConfig()
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        require_fitting(self)
        require_positive(self, "batch_size", "num_epochs", "max_answer_tokens")
        require_positive(self, "stride", "patience")
        require_seed(self)
        require(
            self.num_epochs <= _MOST_EPOCHS,
            f"FinetuneConfig.num_epochs={self.num_epochs} is too large: batches are planned "
            f"for {_MOST_EPOCHS:,} epochs at most.",
        )
        require(
            self.sequence_length is None or self.sequence_length >= 8,
            f"FinetuneConfig.sequence_length={self.sequence_length} is too short; a "
            "text with its special tokens needs at least 8.",
        )
        require_rate(self, "label_smoothing")
        require(
            not self.head_only or not self.lora.rank,
            f"FinetuneConfig.head_only and LoraConfig.rank={self.lora.rank} exclude each "
            "other: LoRA changes the encoder. Leave one of the two out.",
        )
        require_step(self)
        require_used(
            self,
            not self.from_scratch,
            "with from_scratch no weights are taken. Leave one of the two out.",
            "checkpoint_step",
        )
        require_used(
            self.optimizer,
            not (self.head_only or self.lora.rank),
            "--head-only and --lora-rank freeze the whole encoder. Leave it out.",
            *("freeze", "freeze_layers"),
        )
        require_used(
            self.optimizer,
            not self.head_only,
            "with --head-only no layer is trained. Leave it out.",
            "layer_decay",
        )
        require_used(
            self,
            self.loop.eval_every_steps != 0,
            "with LoopConfig.eval_every_steps=0 there is one evaluation, at the end. Leave "
            "one of the two out.",
            "patience",
        )
