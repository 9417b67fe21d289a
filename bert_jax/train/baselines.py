"""Scores a task without a neural network, for comparison."""

import pathlib
import time
from typing import Any

from bert_jax.config import TaskConfig
from bert_jax.train.runs.results_file import finished_results, save_results
from bert_jax.train.task_files import read_examples
from bert_jax.train.tasks import Task, task_named


def baselines(cfg: TaskConfig, output: pathlib.Path) -> dict[str, Any]:
    """Scores the baselines of a task and writes the scores to `output`.

    If `output` holds these scores already, they are only read.

    Raises:
        ValueError: a file has a wrong format, the task has no baselines, or `output`
            holds the scores of other data.
    """
    task = task_named(cfg.kind)
    if type(task).baselines is Task.baselines:
        raise ValueError(
            f"The task {task.name!r} has no baselines here; compare with the score of a "
            "constant answer, which results.json of a fine-tuned run holds."
        )
    outputs, train, held_out, _ = read_examples(task, cfg)
    identity = {"train": train.sha256(), "validation": held_out.sha256()}
    finished = finished_results(output)
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
