"""The labelled examples of a fine-tuning run: read, encoded, and sorted into batches."""

import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig, TaskConfig
from bert_jax.data.labelled.examples import EncodedExamples, Examples
from bert_jax.data.labelled.lengths import LengthBatches, epoch_batches, row_lengths
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.logits import held_out_batches
from bert_jax.train.reading import show_reading, show_rows
from bert_jax.train.tasks import Task, task_named


class TaskData(NamedTuple):
    task: Task
    outputs: tuple[str, ...]
    """Names of the logits."""
    train: Any
    """The examples that are trained on, in the form of the task."""
    held_out: Any
    """The examples that are judged on."""
    train_rows: EncodedExamples
    held_out_rows: EncodedExamples
    epochs: tuple[LengthBatches, ...]
    """The batches of each epoch, by numbers of `train_rows`."""
    lengths: frozenset[int]
    """The lengths of rows in all batches, of training and of judging."""
    as_read: TaskConfig
    """The task with whole paths and the columns that were found."""

    @property
    def steps_per_epoch(self) -> int:
        return len(self.epochs[0].numbers)

    @property
    def num_steps(self) -> int:
        return len(self.epochs) * self.steps_per_epoch

    def batch(self, step: int, batch_size: int) -> ClassifyBatch:
        """The rows of all hosts in a step, counted from 0: a function of seed and step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        numbers, lengths = self.epochs[epoch]
        return self.train_rows.batch(numbers[place], batch_size, lengths[place])


def load_task_data(cfg: FinetuneConfig, tokenizer: Tokenizer) -> TaskData:
    """Reads and encodes both files of a run, and prints what was read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file has a wrong format, or holds nothing to learn.
    """
    task = task_named(cfg.task.kind)
    whole = task.read(cfg.task.train, cfg.task, "train")
    outputs = task.outputs(whole)
    train = task.sample(whole, cfg.task.max_train)
    show_reading(task, "train", train, outputs)
    held_out = task.read(cfg.task.dev, cfg.task, "validation")
    show_reading(task, "validation", held_out, outputs)
    return encode_task_data(cfg, tokenizer, task, outputs, train, held_out)


def encode_task_data(
    cfg: FinetuneConfig,
    tokenizer: Tokenizer,
    task: Task,
    outputs: tuple[str, ...],
    train: Any,
    held_out: Any,
) -> TaskData:
    """Encodes the examples of a run, sorts them into batches, and prints their lengths."""
    train_rows, held_out_rows = (
        task.encode(tokenizer, part, outputs, cfg.sequence_length)
        for part in (train, held_out)
    )
    num_steps = cfg.num_epochs * math.ceil(len(train_rows) / cfg.batch_size)
    lengths = row_lengths(train_rows.num_tokens, cfg.sequence_length, num_steps)
    epochs = tuple(
        epoch_batches(
            train_rows.num_tokens, lengths, cfg.batch_size, seed=cfg.seed, epoch=epoch
        )
        for epoch in range(cfg.num_epochs)
    )
    show_rows(train_rows, epochs[0])
    held_out_plan = held_out_batches(held_out_rows, cfg.batch_size)
    show_rows(held_out_rows, held_out_plan)
    return TaskData(
        task,
        outputs,
        train,
        held_out,
        train_rows,
        held_out_rows,
        epochs,
        frozenset([*lengths.tolist(), *held_out_plan.lengths.tolist()]),
        _as_read(cfg.task, train, held_out),
    )


def _as_read(cfg: TaskConfig, train: Examples, held_out: Examples) -> TaskConfig:
    """The task with whole paths and with the columns that were found.

    `evaluate` and `predict` read files in this way, from any working directory.
    """
    cfg = dataclasses.replace(
        cfg,
        train=pathlib.Path(train.reading.path).absolute(),
        dev=pathlib.Path(held_out.reading.path).absolute(),
    )
    if not train.reading.columns:
        return cfg
    *texts, label = train.reading.columns
    *held_out_texts, held_out_label = held_out.reading.columns
    return dataclasses.replace(
        cfg,
        text=tuple(texts),
        label=label,
        dev_text=tuple(held_out_texts),
        dev_label=held_out_label,
    )
