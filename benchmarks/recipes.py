"""What `benchmarks.evidence` trains: settings by model size, and the tasks that judge it."""

import dataclasses
import pathlib
from typing import Any, Literal, NamedTuple

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    MaskingConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.family import model_config

Model = Literal["tiny", "mini", "small", "base"]
NUM_EVALS = 5
"""Held-out evaluations of a pretraining, evenly spaced, the last one at its end."""


class Recipe(NamedTuple):
    """Settings of one size; fine-tuning's are the same for pretrained and random weights."""

    minutes: float
    """Length of the pretraining."""
    vocab_size: int | None
    """Pieces of a WordPiece vocabulary that is trained on the text; `None` takes BERT's."""
    max_train: int | None
    """Most labelled examples of a task."""
    pretrain: PretrainConfig
    """Without dataset, vocabulary and number of steps."""
    finetune: FinetuneConfig
    """Without checkpoint and task."""

    def pretraining(
        self,
        dataset: pathlib.Path,
        *,
        vocab_size: int,
        platform: str,
        peak_tflops: float,
        num_steps: int,
        seed: int,
    ) -> PretrainConfig:
        """The settings of the pretraining.

        Args:
            dataset: directory of a prepared dataset.
            vocab_size: pieces of its tokenizer.
            platform: JAX's name. On "cpu" products are float32, because JAX's compile
                cache cannot keep a program with bfloat16 products there.
            peak_tflops: measured peak of one device, which MFU is a share of.
            num_steps: updates.
            seed: of every random choice.
        """
        cfg = self.pretrain
        return dataclasses.replace(
            cfg,
            model=dataclasses.replace(cfg.model, vocab_size=vocab_size),
            compute=dataclasses.replace(
                cfg.compute, dtype="float32" if platform == "cpu" else "bfloat16"
            ),
            data=dataclasses.replace(cfg.data, dataset=dataset),
            loop=LoopConfig(
                log_every_steps=max(1, min(10, num_steps // 5), num_steps // 100),
                eval_every_steps=-(-num_steps // NUM_EVALS),
                checkpoint_every_steps=max(1, num_steps // 2),
                keep_checkpoints=1,
                peak_tflops=peak_tflops,
            ),
            num_steps=num_steps,
            seed=seed,
        )


def _small(size: str, rate: float, init_std: float, tune_rate: float) -> Recipe:
    """Small models: a vocabulary that does not outweigh the layers, many small updates,
    no dropout, a larger initial scale and a shorter memory of the second moment, for the
    reasons that configs/quickstart.py gives."""
    length, no_dropout = 64, DropoutConfig(hidden=0.0, attention=0.0)
    return Recipe(
        minutes=16.0,
        vocab_size=8_192,
        max_train=4_000,
        pretrain=PretrainConfig(
            model=model_config(size, max_positions=length, init_std=init_std),
            compute=ComputeConfig(scan_layers=False),
            dropout=no_dropout,
            data=DataConfig(sequence_length=length),
            masking=MaskingConfig(rate=0.2),
            optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=0.03, b2=0.99),
            batch_size=32,
            eval_batches=16,
        ),
        finetune=FinetuneConfig(
            dropout=no_dropout,
            optimizer=OptimizerConfig(
                learning_rate=tune_rate, warmup_steps=0.1, b2=0.98
            ),
            sequence_length=length,
            batch_size=32,
            num_epochs=4,
        ),
    )


RECIPES: dict[str, Recipe] = {
    "tiny": _small("tiny", 2e-3, 0.06, 5e-4),
    "mini": _small("mini", 1e-3, 0.04, 3e-4),
    "small": _small("small", 7e-4, 0.03, 2e-4),
    # BERT's own settings, with a rate and a batch for thousands of steps, not a million.
    "base": Recipe(
        minutes=20.0,
        vocab_size=None,
        max_train=None,
        pretrain=PretrainConfig(
            model=model_config("base", max_positions=128),
            data=DataConfig(sequence_length=128),
            optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=0.08, b2=0.98),
            batch_size=512,
            eval_batches=16,
        ),
        finetune=FinetuneConfig(sequence_length=128, num_epochs=4),
    ),
}


class Task(NamedTuple):
    """A task of GLUE: its title, the scores that count, and how its files are read."""

    title: str
    measures: dict[str, str]
    """Scores in the results of a fine-tuning, and what they are called."""
    config: TaskConfig
    """Without its files."""

    def located(self, folder: pathlib.Path, max_train: int | None) -> TaskConfig:
        """The task with `train.tsv` and `dev.tsv` of a folder.

        Raises:
            FileNotFoundError: one of them does not exist.
        """
        train, dev = (folder / name for name in ("train.tsv", "dev.tsv"))
        for path in (train, dev):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path.resolve()} does not exist; it should hold examples of "
                    f"{self.title}. Give the folder of the tasks with --tasks, or choose "
                    "among them with --only."
                )
        return dataclasses.replace(
            self.config,
            train=train.resolve(),
            validation=dev.resolve(),
            max_train=max_train,
        )


TASKS: dict[str, Task] = {
    "sst2": Task(
        "SST-2",
        {"accuracy": "accuracy"},
        TaskConfig(text_columns=("sentence",), validation_text_columns=("content",)),
    ),
    "cola": Task(
        "CoLA",
        {"matthews": "Matthews correlation"},
        TaskConfig(header=False, text_columns=("4",), label_column="2"),
    ),
    "mrpc": Task(
        "MRPC",
        {"accuracy": "accuracy", "f1": "F1"},
        TaskConfig(text_columns=("#1 String", "#2 String"), label_column="Quality"),
    ),
    "stsb": Task(
        "STS-B",
        {"pearson": "Pearson correlation", "spearman": "Spearman correlation"},
        TaskConfig(
            text_columns=("sentence1", "sentence2"),
            label_column="score",
            kind="regression",
        ),
    ),
}
"""By the name of the folder that holds their files."""


def constant_score(measure: str, results: dict[str, Any]) -> float:
    """The most that one answer for all examples can score.

    Args:
        measure: name of a score.
        results: of a fine-tuning run, whose confusion counts tell how many examples
            each class has.
    """
    if measure == "accuracy":
        return results["constant"]["accuracy"]
    if measure == "f1":
        negatives, positives = (sum(row) for row in results["confusion"])
        return 2 * positives / (2 * positives + negatives)
    return 0.0  # A constant correlates with nothing.
