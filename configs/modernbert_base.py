"""ModernBERT-Base: 149 million parameters, rows of 1,024 tokens, then of 8,192 (Warner et al. 2024).

    bert-jax pretrain --config modernbert_base --data.dataset DATASET --output RUN

Rotary positions, windows of 128 tokens in two of three layers, GeGLU, norms before the
layers, no biases, no sentence pairs, no dropout; 30 % of the tokens are masked; StableAdamW
with a rate that warms up, stays and decays. The paper saw 1.7 trillion
tokens in this many updates; a share of them serves a smaller corpus.

This config has been compiled for TPUs but not run on any.
`bert-jax compile modernbert_base --topology v5e:4x4` says what it needs on that machine.
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
        model=modernbert_config("base"),
        compute=ComputeConfig(dtype="bfloat16", mlm_logits="chunked", remat="dots"),
        dropout=DropoutConfig(hidden=0.0, attention=0.0),
        data=DataConfig(sequence_length=1_024, pairs="none"),
        masking=MaskingConfig(rate=0.3),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=8e-4,
            b2=0.98,
            weight_decay=1e-5,
            schedule="trapezoidal",
            warmup_steps=0.002,
            decay_steps=0.1,
            decay_shape="sqrt",
        ),
        batch_size=4_096,
        micro_batches=16,
        num_steps=360_000,
        next_phases=(
            # Longer rows, as many tokens in a batch; the schedule goes on.
            PhaseConfig(
                sequence_length=8_192,
                batch_size=512,
                micro_batches=16,
                num_steps=50_000,
                learning_rate=None,
            ),
        ),
    )
