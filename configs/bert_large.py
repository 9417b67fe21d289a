"""BERT-Large as it was trained: 128 tokens, then 512, one run (Devlin et al. 2018, A.2).

    bert-jax pretrain --config bert_large --data.dataset DATASET --workdir RUN

Rows are packed, so each holds more sentence pairs than the paper's padded ones did.

Every device holds the whole state and has its own rows, from a laptop to 256 chips. Compiled
for TPUs, not run on any: benchmarks/results/topologies-*.md says what each machine needs.
For another layout, `bert-jax plan`.
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
        model=model_config("large"),
        compute=ComputeConfig(dtype="bfloat16", remat="dots"),
        data=DataConfig(sequence_length=128),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
        batch_size=256,
        num_steps=900_000,
        next_phases=(PhaseConfig(sequence_length=512, num_steps=100_000),),
    )
