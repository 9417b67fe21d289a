"""Compiles for H100 that are not here, and says what came out.

XLA's compiler for GPUs needs neither a GPU nor a driver, only the packages
jax-cuda13-plugin and jax-cuda13-pjrt (without what they depend on). They stay in a
folder of their own: where they are installed, every start of JAX would look for a GPU.

    JAX_PLATFORMS=cpu PYTHONPATH=FOLDER python tests/gpu_compiler.py triton
    JAX_PLATFORMS=cpu PYTHONPATH=FOLDER python tests/gpu_compiler.py cudnn
    JAX_PLATFORMS=cpu PYTHONPATH=FOLDER python tests/gpu_compiler.py fp8
"""

import collections
import functools
import json
import re
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.family import model_config
from bert_jax.model.attention import attend
from bert_jax.model.dropout import Dropout
from bert_jax.model.rows import Rows
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import pretrain_program, synthetic_vocabulary
from bert_jax.train.sharding import on_mesh, spec

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


def devices_of(topology: str) -> list[jax.Device]:
    return list(
        topologies.get_topology_desc(
            "some", "cuda", target_config=H100, topology=topology
        ).devices
    )


def compiled_attention(kernel: Literal["triton", "cudnn"]) -> dict[str, Any]:
    """That of 8 rows of 512 tokens and 2 heads a device, forward and backward."""
    devices = devices_of("1x1x4")
    mesh = make_mesh(MeshConfig(data=2, tensor=2), devices)

    def run(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        d_out: jax.Array,
        ids: jax.Array,
        words: jax.Array,
    ) -> tuple[jax.Array, ...]:
        attention = functools.partial(
            attend,
            rows=Rows(ids, jnp.zeros_like(ids)),
            kernel=kernel,
            dropout=Dropout(
                jax.random.wrap_key_data(words),
                DropoutConfig(attention=0.1 if kernel == "triton" else 0.0),
            ),
        )
        with on_mesh(mesh):
            out, vjp = jax.vjp(attention, q, k, v)
        return out, *vjp(d_out)

    def argument(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        axes = ("batch", None, "heads") if len(shape) == 4 else ("batch",)
        place = NamedSharding(mesh, spec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    x = argument((16, 512, 4, 64), jnp.bfloat16)
    ids, words = argument((16, 512), jnp.int32), argument((16, 2), jnp.uint32)
    text = jax.jit(run).lower(x, x, x, x, ids, words).compile().as_text()
    return {
        "device": devices[0].device_kind,
        "kernels": re.findall(
            r'custom_call_target="([^"]*(?:triton|fmha)[^"]*)"', text
        ),
        "scores": re.findall(r"\w+\[8,2,512,512\]", text),
        "collectives": re.findall(r"all-\w+|collective-\w+|reduce-scatter", text),
    }


def compiled_fp8() -> dict[str, Any]:
    """A training step with two layers in a loop, whose products are of 8-bit floats."""
    cfg = PretrainConfig(
        model=model_config("tiny", vocab_size=500),
        compute=ComputeConfig(dtype="bfloat16", fp8=True, scan_layers=True),
        optimizer=OptimizerConfig(warmup_steps=0),
        batch_size=16,
        num_steps=1,
    )
    mesh = make_mesh(MeshConfig(), devices_of("1x1x1"))
    program = pretrain_program(cfg, mesh, synthetic_vocabulary(500))
    text = program.step.lower(program.state, program.batch).compile().as_text()
    targets = collections.Counter(re.findall(r'custom_call_target="([^"]*)"', text))
    return {name: count for name, count in targets.items() if "matmul" in name}


def compiled_cudnn() -> dict[str, Any]:
    from jax._src.cudnn import fused_attention_stablehlo

    # JAX asks the library for its version, and there is none here.
    fused_attention_stablehlo.check_cudnn_version = lambda: 91_200
    return compiled_attention("cudnn")


if __name__ == "__main__":
    programs = {
        "triton": functools.partial(compiled_attention, "triton"),
        "cudnn": compiled_cudnn,
        "fp8": compiled_fp8,
    }
    print(json.dumps(programs[sys.argv[1]]()))
