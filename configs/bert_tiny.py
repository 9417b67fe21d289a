"""BERT-tiny (2 layers of 128), the smallest of Google's compact models, length 128.

    bert-jax pretrain --config bert_tiny --data.dataset DATASET --output RUN

Hardware: a laptop. Not measured yet.
"""

from bert_jax.config import LoopConfig, OptimizerConfig, PretrainConfig
from bert_jax.family import model_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=model_config("tiny"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0.02),
        loop=LoopConfig(eval_every_steps=2_000),
        batch_size=64,
        num_steps=50_000,
    )
