"""BERT-small (4 layers of 512), one of Google's compact models, length 128.

    bert-jax pretrain --config bert_small --data.dataset DATASET --output RUN

Hardware: meant for one accelerator. Rate and steps are a starting point, not tuned.
Not measured yet.
"""

from bert_jax.config import ComputeConfig, OptimizerConfig, PretrainConfig
from bert_jax.family import model_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=model_config("small"),
        compute=ComputeConfig(dtype="bfloat16"),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=0.04),
        batch_size=256,
        num_steps=250_000,
    )
