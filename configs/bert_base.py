"""BERT-Base as it was trained: 128 tokens, then 512, one run (Devlin et al. 2018, A.2).

    bert-jax pretrain --config bert_base --data.dataset DATASET --workdir RUN

Rows are packed, so each holds more sentence pairs than the paper's padded ones did.

Compiled, not run, on 2026-11-24 with libtpu 0.0.52 and JAX 0.10.2: of the 15.75 GiB of a v5e
chip, a v5e:4x4 needs 2.34 at 128 tokens and 7.06 at 512. No TPU has run it; for other
machines, `bert-jax compile` says what it needs and `bert-jax plan` finds a layout.
"""

from bert_jax.config import (
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
)
from bert_jax.family import model_config


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=model_config("base", compute_dtype="bfloat16"),
        data=DataConfig(sequence_length=128),
        mesh=MeshConfig(shard_update=True),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
        batch_size=256,
        num_steps=900_000,
        next_phases=(PhaseConfig(sequence_length=512, num_steps=100_000),),
    )
