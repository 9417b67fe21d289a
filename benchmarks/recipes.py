"""What `benchmarks.evidence` trains on each platform, and the tasks that judge it."""

import dataclasses
from typing import NamedTuple

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.family import model_config


class Recipe(NamedTuple):
    """Settings of one size; fine-tuning's are the same for pretrained and random weights."""

    minutes: float
    """Length of the pretraining."""
    max_train: int | None
    """Most labelled examples of a task."""
    max_questions: int | None
    """Most questions. Each has several rows, where a row is shorter than its passage."""
    pretrain: PretrainConfig
    """Without dataset and number of steps. The vocabulary has so many pieces, or fewer
    where the text has no more."""
    finetune: FinetuneConfig
    """Without checkpoint and task."""


_LOOP = LoopConfig(
    log_every_steps=50,
    eval_every_steps=2_000,
    checkpoint_every_steps=1_000,
    keep_checkpoints=1,
)
# A small vocabulary that does not outweigh the layers, many small updates, and no dropout,
# which would only slow down little more than one epoch. With a larger initial scale
# attention forms within the first thousand updates, and without bias correction b2 = 0.999
# would inflate these. Products are float32, because JAX's compile cache cannot keep a
# program with bfloat16 products on a CPU.
_NO_DROPOUT = DropoutConfig(hidden=0.0, attention=0.0)
TINY = Recipe(
    minutes=16.0,
    max_train=4_000,
    max_questions=1_000,
    pretrain=PretrainConfig(
        model=model_config("tiny", vocab_size=8_192, max_positions=64, init_std=0.06),
        dropout=_NO_DROPOUT,
        data=DataConfig(sequence_length=64),
        masking=MaskingConfig(rate=0.2),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=0.03, b2=0.99),
        loop=_LOOP,
        batch_size=32,
        eval_batches=16,
    ),
    finetune=FinetuneConfig(
        dropout=_NO_DROPOUT,
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=0.1, b2=0.98),
        sequence_length=64,
        batch_size=32,
        num_epochs=4,
    ),
)
"""For a CPU."""
MODERN_TINY = dataclasses.replace(
    TINY.pretrain,
    model=ModelConfig(
        vocab_size=8_192,
        hidden_size=128,
        num_layers=2,
        num_heads=2,
        # Three matrices of this width are two of 512.
        mlp_size=344,
        max_positions=64,
        init_std=0.06,
        num_segments=0,
        layer_norm_eps=1e-5,
        mlp="geglu",
        norm_position="pre",
        norm_bias=False,
        dense_bias=False,
        head_bias=False,
        positions="rotary",
        next_sentence=False,
        # Without the next-sentence loss, nothing has trained [CLS] to stand for a text.
        pooling="mean",
        pooler="mlm_transform",
    ),
    data=DataConfig(sequence_length=64, pairs="none"),
    # The best rates of six trials of 800 steps, one seed each.
    optimizer=OptimizerConfig(
        name="muon", learning_rate=3e-3, muon_rms=0.8, warmup_steps=0.03, b2=0.99
    ),
)
"""The best that today's options made of `TINY`: its text, rows, width and layers."""
# BERT's own settings, with a rate and a batch for thousands of steps, not a million.
BASE = Recipe(
    minutes=20.0,
    max_train=None,
    max_questions=None,
    pretrain=PretrainConfig(
        model=model_config("base", max_positions=128),
        compute=ComputeConfig(dtype="bfloat16"),
        data=DataConfig(sequence_length=128),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=0.08, b2=0.98),
        loop=_LOOP,
        batch_size=512,
        eval_batches=16,
    ),
    finetune=FinetuneConfig(sequence_length=128, num_epochs=4),
)
"""For a GPU or TPU."""


class Task(NamedTuple):
    """A task: its title, the scores that count, and how its files are read."""

    title: str
    scores: tuple[str, ...]
    """Names in the results of a fine-tuning."""
    config: TaskConfig
    """Without its files. Where `dev` is a share, there is no file to judge on."""
    train: str = "train.tsv"
    """Name of the file to train on."""
    dev: str = "dev.tsv"
    """Name of the file to judge on."""


TASKS: dict[str, Task] = {
    "sst2": Task(
        "SST-2",
        ("accuracy",),
        TaskConfig(text=("sentence",), dev_text=("content",)),
    ),
    "cola": Task(
        "CoLA",
        ("matthews",),
        # The best state is chosen by the official metric, not by the accuracy.
        TaskConfig(kind="glue/cola"),
    ),
    "mrpc": Task(
        "MRPC",
        ("accuracy", "f1"),
        TaskConfig(text=("#1 String", "#2 String"), label="Quality"),
    ),
    "stsb": Task(
        "STS-B",
        ("pearson", "spearman"),
        TaskConfig(
            text=("sentence1", "sentence2"),
            label="score",
            kind="regression",
        ),
    ),
    # A class, a colon, a finer class and a question a line: `evidence` writes a table of it.
    "trec": Task("TREC", ("accuracy",), TaskConfig(dev=0.1), train="train.txt"),
    "wnut17": Task(
        *("WNUT17", ("f1",), TaskConfig(kind="tokens"), "train.conll", "dev.conll"),
    ),
    "squad": Task(
        *("SQuAD", ("f1", "exact_match"), TaskConfig(kind="spans")),
        *("train.json", "dev.json"),
    ),
}
"""By the name of the folder that holds their files."""
