"""What a task is worth without a neural network."""

import pathlib
import time
from typing import Any

from bert_jax.config import TaskConfig
from bert_jax.train.run import load_results, save_results
from bert_jax.train.tasks import task_named


def baselines(cfg: TaskConfig, output: pathlib.Path) -> dict[str, Any]:
    """Scores of the baselines of a task, which are written to `output` too.

    Raises:
        ValueError: a file is not as it must be; the task has no baselines; or `output`
            holds the scores of another task.
    """
    task = task_named(cfg.kind)
    train = task.read(cfg.train, cfg, "train").sample(cfg.max_train)
    held_out = task.read(cfg.validation, cfg, "validation")
    identity = {"train": train.sha256(), "validation": held_out.sha256()}
    finished = load_results(output)
    if finished is not None:
        if finished["data"] != identity:
            raise ValueError(
                f"{output} holds the baselines of another task; choose another --output."
            )
        return finished
    started = time.perf_counter()
    results = {
        "kind": "baselines",
        "task": task.name,
        "data": identity,
        "baselines": task.baselines(train, held_out),
        "num_train": len(train),
        "num_validation": len(held_out),
        "seconds": time.perf_counter() - started,
    }
    output.mkdir(parents=True, exist_ok=True)
    save_results(output, results)
    return results
