"""BERT-mini (4 layers of 256), one of Google's compact models, length 128.

    bert-jax pretrain --config bert_mini --data.dataset DATASET --output RUN

Hardware: a desktop or one small accelerator. Rate and steps are a starting point,
not tuned. Two cores of a Zen 5 train 64 to 76 full rows a second in float32, 99 to 109
in bfloat16 (benchmarks/results).
"""

from bert_jax.config import LoopConfig, OptimizerConfig, PretrainConfig
from bert_jax.family import model_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=model_config("mini"),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=0.02),
        loop=LoopConfig(eval_every_steps=5_000),
        batch_size=128,
        num_steps=100_000,
    )
