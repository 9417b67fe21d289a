"""BERT-Base as it was trained: 128 tokens, then 512, one run (Devlin et al. 2018, A.2).

    bert-jax pretrain --config bert_base --data.dataset DATASET --output RUN

Rows are packed, so each holds more sentence pairs than the paper's padded ones did.

Every device holds the whole state and has its own rows, from a laptop to 256 chips. This
config has been compiled for TPUs but not run on any. `bert-jax compile bert_base --topology
v5e:4x4` says what it needs on that machine.
"""

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
)
from bert_jax.family import model_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=model_config("base"),
        compute=ComputeConfig(dtype="bfloat16"),
        data=DataConfig(sequence_length=128),
        # A share, so that a run of fewer steps warms up too.
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000 / 900_000),
        batch_size=256,
        num_steps=900_000,
        next_phases=(PhaseConfig(sequence_length=512, num_steps=100_000),),
    )
