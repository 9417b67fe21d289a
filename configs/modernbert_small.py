"""ModernBERT-Small: 17 million parameters, the smallest Ettin (Weller et al. 2025).

    bert-jax pretrain --config modernbert_small --data.dataset DATASET --output RUN

Rotary positions, windows of 128 tokens in two of three layers, GeGLU, norms before the
layers, no biases, no sentence pairs, no dropout; 30 % of the tokens are masked; StableAdamW
with a rate that warms up, stays and decays. Meant for one accelerator; rate, batch and
steps are a starting point, not tuned.

This config has not been run on a TPU or GPU.
`bert-jax compile modernbert_small --topology v5e:4x4` says what it needs on that machine.
"""

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    MaskingConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
)
from bert_jax.family import modernbert_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=modernbert_config("small"),
        compute=ComputeConfig(dtype="bfloat16", mlm_logits="chunked", remat="dots"),
        dropout=DropoutConfig(hidden=0.0, attention=0.0),
        data=DataConfig(sequence_length=1_024, pairs="none"),
        masking=MaskingConfig(rate=0.3),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=3e-3,
            b2=0.98,
            weight_decay=1e-5,
            schedule="trapezoidal",
            warmup_steps=0.002,
            decay_steps=0.1,
            decay_shape="sqrt",
        ),
        batch_size=512,
        num_steps=50_000,
        next_phases=(
            # Longer rows, as many tokens in a batch; the schedule goes on.
            PhaseConfig(
                sequence_length=8_192,
                batch_size=64,
                num_steps=5_000,
                learning_rate=None,
            ),
        ),
    )
