"""BERT-Large with LAMB and large batches: 64 k rows of 128 tokens, then 32 k of 512.

    bert-jax pretrain --config bert_large_lamb --data.dataset DATASET --output RUN

Batches and steps are those of You et al. 2020 (76 minutes on a TPU v3 pod); rates,
warm-up and decay those of NVIDIA's public recipe for the same batches
(DeepLearningExamples, PyTorch BERT, pretrain_config.sh). Rows are packed, so each holds
more sentence pairs than theirs did.

The numbers of micro-batches are for 256 chips. For another machine, `bert-jax compile
bert_large_lamb --topology v5p:4x4x4 --try-micro-batches 2 4 8` shows which numbers fit.
This config was compiled on 2026-11-25 with libtpu 0.0.52, not run: a v6e:16x16 needs 11.25
of the 31.24 GiB of a chip in both phases.
"""

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    LoopConfig,
    MeshConfig,
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
        mesh=MeshConfig(shard_update=True),
        optimizer=OptimizerConfig(
            name="lamb",
            learning_rate=6e-3,
            warmup_steps=2_000 / 7_038,
            schedule="polynomial",
            decay_power=0.5,
        ),
        loop=LoopConfig(
            log_every_steps=10, eval_every_steps=500, checkpoint_every_steps=200
        ),
        batch_size=65_536,
        micro_batches=2,
        num_steps=7_038,
        next_phases=(
            PhaseConfig(
                sequence_length=512,
                batch_size=32_768,
                micro_batches=4,
                num_steps=1_563,
                learning_rate=4e-3,
                warmup_steps=200 / 1_563,
            ),
        ),
    )
