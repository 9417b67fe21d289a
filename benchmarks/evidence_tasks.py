"""The four GLUE tasks that a pretrained model is judged by, as their files are."""

import dataclasses
import pathlib
from typing import NamedTuple

from bert_jax.config import TaskConfig


class Task(NamedTuple):
    """Where its files lie below a folder, how they are read, what counts."""

    name: str
    title: str
    measures: tuple[str, ...]
    """Names of scores among what `bert-jax finetune` writes."""
    config: TaskConfig
    """Without its files."""

    def located(self, folder: pathlib.Path, max_train: int | None) -> TaskConfig:
        """The task with its files below `folder`.

        Raises:
            FileNotFoundError: one of them is not there.
        """
        train, dev = (folder / self.name / name for name in ("train.tsv", "dev.tsv"))
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


def task_flags(cfg: TaskConfig) -> list[str]:
    """Of `bert-jax finetune`."""
    flags = ["--task.train", str(cfg.train), "--task.validation", str(cfg.validation)]
    flags += ["--task.text-columns", *cfg.text_columns]
    flags += ["--task.label-column", cfg.label_column, "--task.kind", cfg.kind]
    if not cfg.header:
        flags += ["--task.no-header"]
    if cfg.validation_text_columns is not None:
        flags += ["--task.validation-text-columns", *cfg.validation_text_columns]
    if cfg.max_train is not None:
        flags += ["--task.max-train", str(cfg.max_train)]
    return flags


TASKS = (
    Task(
        "sst2",
        "SST-2",
        ("accuracy",),
        TaskConfig(text_columns=("sentence",), validation_text_columns=("content",)),
    ),
    Task(
        "cola",
        "CoLA",
        ("matthews",),
        TaskConfig(header=False, text_columns=("4",), label_column="2"),
    ),
    Task(
        "mrpc",
        "MRPC",
        ("accuracy", "f1"),
        TaskConfig(text_columns=("#1 String", "#2 String"), label_column="Quality"),
    ),
    Task(
        "stsb",
        "STS-B",
        ("pearson", "spearman"),
        TaskConfig(
            text_columns=("sentence1", "sentence2"),
            label_column="score",
            kind="regression",
        ),
    ),
)
MEASURES = {
    "accuracy": "accuracy",
    "matthews": "Matthews correlation",
    "f1": "F1",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}


def chosen(names: tuple[str, ...]) -> list[Task]:
    """The tasks of these names; all of them when none is named.

    Raises:
        ValueError: there is no such task.
    """
    known = [task.name for task in TASKS]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(
            f"--only {' '.join(unknown)}: no such task; there are {', '.join(known)}."
        )
    return [task for task in TASKS if not names or task.name in names]


def constant_score(measure: str, results: dict) -> float:
    """The most that one answer for all examples can score.

    Args:
        results: of a fine-tuning run, whose confusion counts tell how many examples of
            each class there are.
    """
    if measure == "accuracy":
        return results["majority_accuracy"]
    if measure == "f1":
        negatives, positives = (sum(row) for row in results["confusion"])
        return 2 * positives / (2 * positives + negatives)
    return 0.0  # a constant correlates with nothing


def majority_note(measure: str) -> str:
    return {
        "accuracy": "the larger class",
        "f1": "always the positive class",
    }.get(measure, "no correlation")
