"""BERT-Base, phase 1: sequences of 128 tokens, 90 % of the updates.

    bert-jax pretrain --config bert_base --data.dataset DATASET --workdir RUN

Hardware: meant for one or more accelerators; the batch is shared by all of them.
Not measured yet.
"""

from bert_jax.config import DataConfig, OptimizerConfig, PretrainConfig
from bert_jax.family import model_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=model_config("base", compute_dtype="bfloat16"),
        data=DataConfig(sequence_length=128),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
        batch_size=256,
        num_steps=900_000,
    )
