"""The tasks that a model can be fine-tuned for, and the registry of them.

To add a task, write its file here and add it to `TASKS` below. If its files have a new
format, also write a reader in `data/labelled/`.
"""

from collections.abc import Mapping

from bert_jax.config import FinetuneConfig
from bert_jax.train.tasks.choice import Choice
from bert_jax.train.tasks.classification import Classification
from bert_jax.train.tasks.embeddings import Embeddings
from bert_jax.train.tasks.glue import GLUE
from bert_jax.train.tasks.multilabel import MultiLabel
from bert_jax.train.tasks.regression import Regression
from bert_jax.train.tasks.spans import Spans
from bert_jax.train.tasks.task import Task
from bert_jax.train.tasks.tokens import Tokens

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        *(Classification(), MultiLabel(), Regression(), Tokens(), Spans()),
        *(Choice(), Embeddings(), *GLUE),
    )
}


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(
            f"There is no task {name!r}; expected one of {', '.join(TASKS)}."
        )
    return TASKS[name]


def task_of(cfg: FinetuneConfig) -> Task:
    """The task that a config asks for, with its settings.

    Raises:
        ValueError: a setting would be ignored.
    """
    return task_named(cfg.task.kind).configured(cfg)
