"""BERT-tiny (2 layers of 128), the smallest of Google's compact models, length 128.

    bert-jax pretrain --config bert_tiny --data.dataset DATASET --workdir RUN

Hardware: a laptop. Not measured yet.
"""

from bert_jax.config import LoopConfig, ModelConfig, OptimizerConfig, PretrainConfig


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig(hidden_size=128, num_layers=2, num_heads=2, mlp_size=512),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1_000),
        loop=LoopConfig(eval_every_steps=2_000),
        batch_size=64,
        num_steps=50_000,
    )
