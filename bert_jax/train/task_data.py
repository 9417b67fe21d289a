"""The labelled examples of a fine-tuning run: read, encoded, and sorted into batches."""

from typing import Any, NamedTuple

import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig, ModelConfig, TaskConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.lengths import LengthBatches, epoch_batches, row_lengths
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.logits import compile_price, held_out_batches
from bert_jax.train.reading import show_rows
from bert_jax.train.task_files import TaskExamples, read_examples
from bert_jax.train.tasks import Task, task_of
from bert_jax.train.tasks.class_weights import say_weights
from bert_jax.train.tasks.task import Judged

_NUM_MEASURED = 2_000  # examples whose lengths decide that of the rows
_FITTING_SHARE = 0.99
_SHORTEST = 16


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
    held_out_batches: LengthBatches
    """The batches that are judged on, by numbers of `held_out_rows`."""
    sequence_length: int
    """T, the largest length of a row."""
    price: float
    """What compiling for a length of rows costs, in places of rows."""
    as_read: TaskConfig
    """The task with whole paths and the columns that were found."""

    @property
    def steps_per_epoch(self) -> int:
        return len(self.epochs[0].numbers)

    @property
    def num_steps(self) -> int:
        return len(self.epochs) * self.steps_per_epoch

    @property
    def lengths(self) -> frozenset[int]:
        """The lengths of rows in all batches, of training and of judging."""
        plans = (self.held_out_batches, *self.epochs)
        return frozenset(length for x in plans for length in x.lengths.tolist())

    def for_run(self, cfg: FinetuneConfig) -> "TaskData":
        """The same examples for a run with another seed or number of epochs."""
        return self._replace(
            epochs=_plan(self.train_rows, self.sequence_length, cfg, self.price),
            held_out_batches=_held_out_plan(self.held_out_rows, cfg, self.price),
        )

    def batch(self, step: int, batch_size: int) -> ClassifyBatch:
        """The rows of all hosts in a step, counted from 0: a function of seed and step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        numbers, lengths = self.epochs[epoch]
        return self.train_rows.batch(numbers[place], batch_size, lengths[place])

    def judged(self, logits: np.ndarray) -> Judged:
        """The held-out examples with logits of their rows."""
        return Judged(logits, self.held_out_rows, self.held_out, self.outputs)

    def rows_of_batch(self, step: int) -> dict[str, list[int]]:
        """The numbers of the training examples in a step, from 0, under "examples"."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return {"examples": self.epochs[epoch].numbers[place].tolist()}


def load_task_data(
    cfg: FinetuneConfig, tokenizer: Tokenizer, model: ModelConfig
) -> TaskData:
    """Reads and encodes the examples of a run, and prints what was read.

    Args:
        model: the encoder; its positions and its size decide the lengths of rows.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file has a wrong format, or holds nothing to learn.
    """
    task = task_of(cfg)
    examples = read_examples(task, cfg.task)
    return encode_task_data(cfg, tokenizer, model, task, examples)


def encode_task_data(
    cfg: FinetuneConfig,
    tokenizer: Tokenizer,
    model: ModelConfig,
    task: Task,
    examples: TaskExamples,
) -> TaskData:
    """Encodes the examples of a run, sorts them into batches, and prints their lengths."""
    outputs, train, held_out, as_read = examples
    sequence_length = cfg.sequence_length
    if sequence_length is None:
        sequence_length = fitting_length(
            task, tokenizer, train, outputs, model.max_positions
        )
    train_rows, held_out_rows = (
        task.encode(tokenizer, part, outputs, sequence_length)
        for part in (train, held_out)
    )
    weights = task.example_weights(train, outputs)
    if weights is not None:
        print(f"  class weights: {say_weights(weights, train.labels)}", flush=True)
        train_rows = train_rows.weighed(weights)
    price = compile_price(model)
    epochs = _plan(train_rows, sequence_length, cfg, price)
    show_rows(task, "train", train_rows, epochs[0])
    held_out_plan = _held_out_plan(held_out_rows, cfg, price)
    show_rows(task, "validation", held_out_rows, held_out_plan)
    return TaskData(
        task,
        outputs,
        train,
        held_out,
        train_rows,
        held_out_rows,
        epochs,
        held_out_plan,
        sequence_length,
        price,
        as_read,
    )


def _plan(
    rows: EncodedExamples, sequence_length: int, cfg: FinetuneConfig, price: float
) -> tuple[LengthBatches, ...]:
    of_an_epoch = price / (rows.group_size * cfg.num_epochs)
    lengths = row_lengths(rows.num_tokens, sequence_length, of_an_epoch)
    return tuple(
        epoch_batches(
            rows.num_tokens, lengths, cfg.batch_size, seed=cfg.seed, epoch=epoch
        )
        for epoch in range(cfg.num_epochs)
    )


def _held_out_plan(
    rows: EncodedExamples, cfg: FinetuneConfig, price: float
) -> LengthBatches:
    """Once an epoch is how often they are judged, and one compiling serves all of them."""
    return held_out_batches(rows, cfg.batch_size, price / cfg.num_epochs)


def fitting_length(
    task: Task,
    tokenizer: Tokenizer,
    train: Any,
    outputs: tuple[str, ...],
    max_positions: int,
) -> int:
    """The length that nearly all rows of the training examples fit into; it is printed.

    It is judged on a random choice of the examples, encoded as long as the encoder can
    take them.
    """
    some = train.sample(_NUM_MEASURED)
    rows = task.encode(tokenizer, some, outputs, max_positions)
    needed = int(np.quantile(rows.num_tokens, _FITTING_SHARE, method="higher"))
    length = min(max_positions, max(_SHORTEST, -(-needed // 8) * 8))
    of = f"{len(some):,} {'random ' * (len(some) < len(train))}training examples"
    said = f"{_FITTING_SHARE:.0%} of {of} fit into {needed}"
    if needed == max_positions:
        said = f"the most the encoder takes; {rows.num_cut:,} texts of {of} are longer"
    print(
        f"rows have at most {length} tokens: {said} (--sequence-length sets another "
        "length)",
        flush=True,
    )
    return length
