"""Scores a task without a neural network, for comparison."""

import pathlib
import time
from typing import Any

from bert_jax.config import TaskConfig
from bert_jax.train.reading import show_reading
from bert_jax.train.run import load_results, save_results
from bert_jax.train.tasks import task_named


def baselines(cfg: TaskConfig, output: pathlib.Path) -> dict[str, Any]:
    """Scores the baselines of a task and writes the scores to `output`.

    If `output` holds these scores already, they are only read.

    Raises:
        ValueError: a file has a wrong format, the task has no baselines, or `output`
            holds the scores of other data.
    """
    task = task_named(cfg.kind)
    whole = task.read(cfg.train, cfg, "train")
    outputs = task.outputs(whole)
    train = task.sample(whole, cfg.max_train)
    held_out = task.read(cfg.dev, cfg, "validation")
    show_reading(task, "train", train, outputs)
    show_reading(task, "validation", held_out, outputs)
    identity = {"train": train.sha256(), "validation": held_out.sha256()}
    finished = load_results(output)
    if finished is not None:
        if finished["data"] != identity:
            raise ValueError(
                f"{output} holds the baselines of other data; choose another --output."
            )
        return finished
    started = time.perf_counter()
    results = {
        "kind": "baselines",
        "task": task.name,
        "data": identity,
        "baselines": task.baselines(train, held_out, outputs),
        "num_train": len(train),
        "num_validation": len(held_out),
        "seconds": time.perf_counter() - started,
    }
    output.mkdir(parents=True, exist_ok=True)
    save_results(output, results)
    return results
