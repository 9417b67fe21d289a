"""Which library does a sentence of documentation come from? Part of the quickstart.

    bert-jax finetune RUN --config quickstart_finetune --output DIR \\
        --train train.tsv --dev validation.tsv

Measured as part of the quickstart on two cores of an AMD EPYC (AVX2), 2026-11-29: accuracy
47.2 % pretrained, 44.9 % from scratch, TF-IDF 45.4 %, majority 18.4 % of 9 libraries.
"""

from bert_jax.config import (
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    OptimizerConfig,
)


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=0.1, b2=0.98),
        loop=LoopConfig(
            log_every_steps=50, eval_every_steps=200, checkpoint_every_steps=200
        ),
        # The few thousand sentences are learned by heart in three epochs.
        dropout=DropoutConfig(hidden=0.2, attention=0.0),
        sequence_length=64,
        batch_size=32,
        num_epochs=3,
    )
