"""One fine-tuning run and its labelled text."""

import dataclasses
import pathlib

from bert_jax.config.checks import require, require_positive, require_rate, require_seed
from bert_jax.config.loop import LoopConfig
from bert_jax.config.mesh import MeshConfig
from bert_jax.config.optimizer import OptimizerConfig


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
        require(
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
        require_positive(self, "batch_size", "num_epochs")
        require_seed(self)
        require(
            self.sequence_length >= 8,
            f"FinetuneConfig.sequence_length={self.sequence_length} is too short; a "
            "text with its special tokens needs at least 8.",
        )
        require_rate(self, "dropout_rate", "warmup_share")
        require(
            self.optimizer.warmup_steps == 0,
            f"OptimizerConfig.warmup_steps={self.optimizer.warmup_steps} would be "
            "ignored: fine-tuning takes FinetuneConfig.warmup_share.",
        )
