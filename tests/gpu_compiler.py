"""Compiles a pretraining step for four H100 that are not here, and says what came out.

XLA's compiler for GPUs needs neither a GPU nor a driver, only the packages
jax-cuda13-plugin and jax-cuda13-pjrt (without what they depend on). They stay in a
folder of their own: where they are installed, every start of JAX would look for a GPU.

    JAX_PLATFORMS=cpu PYTHONPATH=FOLDER python tests/gpu_compiler.py triton
"""

import json
import re
import sys
from typing import Any

from jax.experimental import topologies

from bert_jax.config import (
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import pretrain_program, synthetic_vocabulary

# Of an H100 SXM, from NVIDIA's data sheet and the CUDA programming guide (compute
# capability 9.0). The names are those of XLA's GpuTargetConfigProto.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: 3350000000000
  device_memory_size: 85000000000
}
platform_name: "CUDA"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def compiled_step(attention: Any) -> dict[str, Any]:
    """Of a step over 8 rows of 512 tokens a device, with that attention."""
    devices = topologies.get_topology_desc(
        "four", "cuda", target_config=H100, topology="1x1x4"
    ).devices
    cfg = PretrainConfig(
        model=ModelConfig(
            vocab_size=500,
            hidden_size=256,
            num_layers=1,
            num_heads=4,
            mlp_size=512,
            compute_dtype="bfloat16",
            attention=attention,
        ),
        data=DataConfig(sequence_length=512),
        optimizer=OptimizerConfig(warmup_steps=0),
        batch_size=16,
        num_steps=1,
    )
    mesh = make_mesh(MeshConfig(data=2, tensor=2), list(devices))
    program = pretrain_program(cfg, mesh, synthetic_vocabulary(500))
    compiled = program.step.lower(program.state, program.batch).compile()
    text = compiled.as_text()
    return {
        "device": devices[0].device_kind,
        "kernels": re.findall(r'custom_call_target="([^"]*triton[^"]*)"', text),
        # Of the two heads that a device has.
        "scores": re.findall(r"\w+\[(?:1,)?8,2,512,512\]", text),
    }


if __name__ == "__main__":
    print(json.dumps(compiled_step(sys.argv[1])))
