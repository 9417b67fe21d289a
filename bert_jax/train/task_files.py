"""The labelled examples of a task: of two files, or of one that is parted."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple, TextIO

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.draws import shots, split_share
from bert_jax.data.labelled.examples import Examples
from bert_jax.train.reading import show_reading
from bert_jax.train.tasks import Task


class TaskExamples(NamedTuple):
    outputs: tuple[str, ...]
    """Names of the logits."""
    train: Any
    """The examples that are trained on, in the form of the task."""
    held_out: Any
    """The examples that are judged on."""
    as_read: TaskConfig
    """The task with whole paths and the columns that were found."""


def read_examples(task: Task, cfg: TaskConfig) -> TaskExamples:
    """Reads what is trained on and what is judged on, and prints what was read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file has a wrong format, or holds nothing to learn, or too few
            examples for what is to be drawn.
    """
    cfg = task.settled(cfg)
    whole = task.read(cfg.train, cfg, "train")
    cfg = dataclasses.replace(cfg, **whole.reading.settings)
    outputs = task.outputs(whole)
    if isinstance(cfg.dev, float):
        rest, held_out = _parted(task, cfg, whole)
    else:
        rest = whole
        held_out = task.read(cfg.dev, cfg, "validation")
    train = _drawn(task, cfg, rest)
    show_reading(task, "train", train, outputs)
    if len(train) < len(whole):
        print(f"  {_say_drawn(cfg, len(train), len(whole))}", flush=True)
    show_reading(task, "validation", held_out, outputs)
    warn_of_known(train, held_out)
    return TaskExamples(outputs, train, held_out, as_read(cfg, whole, held_out))


def warn_of_known(train: Any, held_out: Any, file: TextIO | None = None) -> None:
    """Prints how many held-out examples are equal to one that is trained on."""
    known = set(map(json.dumps, train.records()))
    if num_known := sum(json.dumps(record) in known for record in held_out.records()):
        print(
            f"  warning: {num_known:,} of these {len(held_out):,} examples are trained on "
            "too, so the scores flatter; remove them from one of the files",
            file=file,
            flush=True,
        )


def read_trained_on(task: Task, cfg: TaskConfig, sha256: str) -> Any:
    """The examples that a run was trained on, or `None` where its file has changed.

    Args:
        sha256: their identity, from run.json.

    Raises:
        FileNotFoundError, ValueError: as for `read_examples`.
    """
    rest = whole = task.read(cfg.train, cfg, "train")
    if isinstance(cfg.dev, float):
        rest, _ = _parted(task, cfg, whole)
    train = _drawn(task, cfg, rest)
    return train if train.sha256() == sha256 else None


def read_held_out(task: Task, cfg: TaskConfig, sha256: str) -> Any:
    """The examples that a run was judged on, read or drawn again.

    Args:
        sha256: their identity, from run.json.

    Raises:
        FileNotFoundError, ValueError: as for `read_examples`, or the file has changed.
    """
    if isinstance(cfg.dev, float):
        _, examples = _parted(task, cfg, task.read(cfg.train, cfg, "train"))
    else:
        examples = task.read(cfg.dev, cfg, "validation")
    if cfg.dev == cfg.train and examples.sha256() != sha256:
        raise ValueError(
            f"The run was judged on one fold of {cfg.train}, as a part of a sweep, and its "
            "results.json has the scores; or the file has changed since. To judge on a "
            "whole file, pass it to `bert-jax evaluate RUN FILE`."
        )
    check_unchanged(examples, sha256)
    return examples


def check_unchanged(examples: Examples, sha256: str) -> None:
    """Raises ValueError if these are not the examples of this identity."""
    found = examples.sha256()
    if found != sha256:
        raise ValueError(
            f"{examples.reading.path} has changed: its examples have SHA-256 {found[:16]}, "
            f"and those that the run was judged on {sha256[:16]}. Restore the file; or, to "
            "judge on it as it is, pass it to `bert-jax evaluate RUN FILE`."
        )


def _parted(task: Task, cfg: TaskConfig, whole: Any) -> tuple[Any, Any]:
    assert isinstance(cfg.dev, float)
    return split_share(whole, cfg.dev, cfg.draw_seed, task.classes(whole))


def _drawn(task: Task, cfg: TaskConfig, rest: Any) -> Any:
    """Those that are trained on, of all that are not judged on."""
    classes = task.classes(rest)
    if cfg.shots is None:
        return rest.sample(cfg.max_train, classes, cfg.draw_seed)
    if classes is None:
        raise ValueError(
            f"TaskConfig.shots={cfg.shots} would draw examples of each class, but --task "
            f"{task.name} has no classes. Pass --max-train instead."
        )
    return shots(rest, cfg.shots, cfg.draw_seed, classes)


def _say_drawn(cfg: TaskConfig, num_train: int, num_all: int) -> str:
    said = f"{num_train:,} of the {num_all:,} examples of the file"
    if isinstance(cfg.dev, float):
        said += f"; a share of {cfg.dev:g} is judged on and not trained on (--dev)"
    if cfg.shots is not None:
        said += f"; {cfg.shots:,} of each class (--shots)"
    if cfg.max_train is not None:
        said += f"; {cfg.max_train:,} at most (--max-train)"
    return f"{said}; drawn with --draw-seed {cfg.draw_seed}"


def as_read(cfg: TaskConfig, train: Examples, held_out: Examples) -> TaskConfig:
    """The task with whole paths, and with the columns and settings that were found.

    `evaluate` and `predict` read files in this way, from any working directory.
    """
    path = pathlib.Path(train.reading.path).absolute()
    dev = cfg.dev
    if not isinstance(dev, float):
        dev = pathlib.Path(held_out.reading.path).absolute()
    cfg = dataclasses.replace(cfg, train=path, dev=dev, **train.reading.settings)
    if not train.reading.columns:
        return cfg
    *texts, label = train.reading.columns
    cfg = dataclasses.replace(
        cfg, text=tuple(texts), label=None if cfg.label_columns else label
    )
    if isinstance(dev, float):
        return cfg
    *held_out_texts, held_out_label = held_out.reading.columns
    return dataclasses.replace(
        cfg,
        dev_text=tuple(held_out_texts),
        dev_label=None if cfg.label_columns else held_out_label,
    )
