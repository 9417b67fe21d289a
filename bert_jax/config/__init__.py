"""Every setting of every command, as frozen dataclasses that check themselves.

Python files in `configs/` build these; the command line overrides single fields; a
run directory stores them whole (`config_json.py`).
"""

from bert_jax.config.cluster import ClusterConfig
from bert_jax.config.compute import ComputeConfig
from bert_jax.config.data import DataConfig, MaskingConfig
from bert_jax.config.dropout import DropoutConfig
from bert_jax.config.finetune import FileConfig, FinetuneConfig, TaskConfig
from bert_jax.config.loop import LoopConfig
from bert_jax.config.lora import LoraConfig
from bert_jax.config.mesh import MeshConfig
from bert_jax.config.model import EXTENDABLE, ModelConfig
from bert_jax.config.optimizer import OptimizerConfig
from bert_jax.config.prepare import DEFAULT_OPTIONS, PrepareOptions, ReadOptions
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.sweep import SweepConfig
from bert_jax.config.tokenizer import MAX_BYTES, MAX_SENTENCES, TokenizerOptions

__all__ = [
    "DEFAULT_OPTIONS",
    "EXTENDABLE",
    "MAX_BYTES",
    "MAX_SENTENCES",
    "ClusterConfig",
    "ComputeConfig",
    "DataConfig",
    "DropoutConfig",
    "FileConfig",
    "FinetuneConfig",
    "LoopConfig",
    "LoraConfig",
    "MaskingConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "PrepareOptions",
    "PretrainConfig",
    "ReadOptions",
    "SweepConfig",
    "TaskConfig",
    "TokenizerOptions",
]
