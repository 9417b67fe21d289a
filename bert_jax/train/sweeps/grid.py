"""The runs of a sweep: their settings, their names, and what they train on."""

import contextlib
import dataclasses
import io
import pathlib
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import FinetuneConfig, SweepConfig, TaskConfig
from bert_jax.data.labelled.draws import fold_numbers
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.reading import show_reading
from bert_jax.train.runs.run import load_run
from bert_jax.train.task_data import (
    TaskData,
    encode_task_data,
    fitting_length,
    load_task_data,
)
from bert_jax.train.task_files import TaskExamples, as_read
from bert_jax.train.tasks import Task, task_of


class Setting(NamedTuple):
    """What is tried out, with several seeds."""

    learning_rate: float
    num_epochs: int

    @property
    def name(self) -> str:
        return f"lr-{self.learning_rate:g}_epochs-{self.num_epochs}"

    def say(self) -> str:
        return f"learning rate {self.learning_rate:g}, {self.num_epochs} epochs"


class Member(NamedTuple):
    """One run of a sweep."""

    setting: Setting
    seed: int
    fold: int | None = None

    @property
    def path(self) -> pathlib.Path:
        """Its run directory in the directory of the sweep."""
        fold = "" if self.fold is None else f"_fold-{self.fold}"
        return pathlib.Path("runs", self.setting.name, f"seed-{self.seed}{fold}")

    def say(self) -> str:
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.setting.say()}, seed {self.seed}{fold}"

    def config(self, base: FinetuneConfig) -> FinetuneConfig:
        """The settings of its run."""
        rate, task = self.setting.learning_rate, base.task
        if task.shots is not None:  # each seed draws its own examples
            task = dataclasses.replace(task, draw_seed=self.seed)
        return dataclasses.replace(
            base,
            optimizer=dataclasses.replace(base.optimizer, learning_rate=rate),
            task=task,
            num_epochs=self.setting.num_epochs,
            seed=self.seed,
        )


def members_of(cfg: SweepConfig, base: FinetuneConfig) -> list[Member]:
    """All runs of a sweep, those of a setting one after the other.

    Raises:
        ValueError: a value of the grid is none that a run can have, two learning rates
            are equal up to six digits, or the grid leaves the validation file unused.
    """
    if cfg.folds is not None and base.task.dev is not None:
        raise ValueError(
            f"--dev {base.task.dev} would be ignored: with --folds {cfg.folds}, every "
            "example of the training file is judged on once. Leave one of them out."
        )
    if cfg.folds is not None and base.task.shots is not None:
        raise ValueError(
            f"--folds {cfg.folds} and --shots {base.task.shots} both say what is trained "
            "on; give one of them."
        )
    settings = [
        Setting(rate, num_epochs)
        for rate in cfg.learning_rates or (base.optimizer.learning_rate,)
        for num_epochs in cfg.epochs or (base.num_epochs,)
    ]
    if len({setting.name for setting in settings}) < len(settings):
        raise ValueError(
            f"--learning-rates {cfg.learning_rates}: two of them are equal up to six "
            "digits, so that their runs would have one name. Leave one of them out."
        )
    folds = [None] if cfg.folds is None else list(range(1, cfg.folds + 1))
    members = [
        Member(setting, seed, fold)
        for setting in settings
        for seed in cfg.seeds
        for fold in folds
    ]
    for member in members:
        member.config(base)  # checks its values
    return members


def load_member_data(
    cfg: SweepConfig, member: Member, base: FinetuneConfig, tokenizer: Tokenizer
) -> TaskData:
    """Reads and encodes what a run trains on and is judged on, and prints what was read.

    Raises:
        FileNotFoundError, ValueError: as for `load_task_data`, or there are too few
            examples for the folds.
    """
    run = member.config(base)
    assert run.checkpoint is not None
    model = load_run(run.checkpoint).model
    if cfg.folds is None:
        return load_task_data(run, tokenizer, model)
    task = task_of(run)
    whole, outputs = whole_file(task, run.task)
    if run.sequence_length is None:
        length = fitting_length(task, tokenizer, whole, outputs, model.max_positions)
        run = dataclasses.replace(run, sequence_length=length)
    folds = folds_of(task, whole, cfg.folds, member.seed)
    train, held_out = (
        whole.take(np.flatnonzero(is_in))
        for is_in in (folds != member.fold, folds == member.fold)
    )
    show_reading(task, "train", train, outputs)
    show_reading(task, "validation", held_out, outputs)
    settled = task.settled(run.task)
    examples = TaskExamples(outputs, train, held_out, as_read(settled, train, held_out))
    return encode_task_data(run, tokenizer, model, task, examples)


def whole_file(task: Task, cfg: TaskConfig) -> tuple[Any, tuple[str, ...]]:
    """The examples that folds are cut from, and the names of the logits."""
    cfg = task.settled(cfg)
    file = task.read(cfg.train, cfg, "train")
    outputs = task.outputs(file)
    return file.sample(cfg.max_train, task.classes(file), cfg.draw_seed), outputs


def folds_of(task: Task, whole: Any, num_folds: int, seed: int) -> np.ndarray:
    """The number of the fold that holds each example out, int [examples], from 1."""
    return 1 + fold_numbers(whole, num_folds, seed, task.classes(whole))


def quietly_loaded(
    cfg: SweepConfig, member: Member, base: FinetuneConfig, tokenizer: Tokenizer
) -> TaskData:
    """As `load_member_data`, without a word."""
    with contextlib.redirect_stdout(io.StringIO()):
        return load_member_data(cfg, member, base, tokenizer)
