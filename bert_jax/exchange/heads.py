"""Which head a run has, and which task a foreign model becomes: decided here only."""

import jax

from bert_jax.config import FinetuneConfig, ModelConfig, PretrainConfig
from bert_jax.exchange.portable import VECTORS
from bert_jax.exchange.source import Source
from bert_jax.exchange.tensors import Head, Params
from bert_jax.model import pretraining
from bert_jax.model.random_bits import root_key
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.tasks import TASKS, Task, task_named, task_of

# What is left of a pretraining model without pooler and next-sentence head.
MLM_PARTS = ("embed", "layers", "final", "mlm")


def head_of_run(cfg: PretrainConfig | FinetuneConfig) -> Head:
    """The head that the run's model has."""
    if isinstance(cfg, FinetuneConfig):
        return task_of(cfg).head  # type: ignore[return-value]
    return "pretraining" if cfg.model.next_sentence else "mlm"


def problem_type_of_run(info: RunInfo) -> str | None:
    """What transformers calls the loss of the run's task, where it has several."""
    return None if info.task is None else task_named(info.task).problem_type


def task_of_source(source: Source, *, encoder_only: bool) -> Task | None:
    """The task of the run that a foreign model becomes; None: a pretraining run.

    It is the first one of the registry with the head and the loss of the model. A model
    for multiple choice becomes a pretraining run: nobody knows the names of its choices.

    Args:
        source: the foreign model.
        encoder_only: whether its own head is left out.
    """
    if encoder_only or source.head in ("pretraining", "mlm", "choice"):
        return None
    if source.head in VECTORS:
        return TASKS["embeddings"]
    return next(
        task
        for task in TASKS.values()
        if task.head == source.head and source.problem_type in (None, task.problem_type)
    )


def fresh_params(
    model: ModelConfig, task: Task | None, num_outputs: int, seed: int
) -> Params:
    """Freshly drawn parameters of a task's model, or of a pretraining model.

    Args:
        model: the architecture.
        task: of `task_of_source`.
        num_outputs: logits of the task's head.
        seed: of the random numbers.
    """
    key = root_key(seed)
    if task is None:
        return jax.device_get(pretraining.init_params(model, key))
    return jax.device_get(task.init_params(model, num_outputs, key))
