"""Run directories with random weights, which no training made."""

import dataclasses
import pathlib

import jax
import numpy as np
import optax

from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model import pretraining
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.runs.run_start import start_run
from bert_jax.train.step import TrainState, init_state
from bert_jax.train.tasks import TASKS

MODEL = ModelConfig(
    hidden_size=32, num_layers=1, num_heads=2, mlp_size=64, max_positions=64
)
LABELS = {
    "classification": ("bad", "good"),
    "regression": ("score",),
    "tokens": ("B-LOC", "B-PER", "I-PER", "O"),
    "spans": ("start", "end"),
    "choice": ("0", "1", "2"),
}


def random_run(
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    task: str | None = None,
    *,
    text: tuple[str, ...] = ("text",),
    length: int = 32,
) -> pathlib.Path:
    """A run of a task, or of pretraining, whose weights are wide enough to tell texts."""
    model = dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size)
    info = RunInfo(
        kind="pretrain" if task is None else "finetune",
        model=model,
        tokenizer_sha256=tokenizer.sha256,
        data={},
        task=task,
        labels=None if task is None else LABELS[task],
        sequence_length=length,
    )
    key = jax.random.key(0)
    config = PretrainConfig(model=model, data=DataConfig(sequence_length=length))
    if task is None:
        params = pretraining.init_params(model, key)
    else:
        columns = {"text": text} if TASKS[task].pooled else {}
        settings = TaskConfig(kind=task, **columns)
        config = FinetuneConfig(task=settings, sequence_length=length)
        params = TASKS[task].init_params(model, len(LABELS[task]), key)
    # Vectors drawn with deviation 0.02 would leave all answers alike.
    params = jax.tree.map(lambda x: np.asarray(8.0 * x if x.ndim > 1 else x), params)
    start_run(folder, config, info, tokenizer)
    start = init_state(lambda _: {}, optax.identity(), 0)
    state = TrainState(step=np.int32(0), params=params, opt_state=None, key=start.key)
    with Checkpoints(folder, info.identity) as checkpoints:
        checkpoints.save(jax.tree.map(jax.numpy.asarray, state))
        checkpoints.wait()
    return folder
