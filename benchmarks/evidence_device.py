"""Tells, in a process of its own, what JAX runs on and how fast its products are.

    python -m benchmarks.evidence_device

A process that has opened an accelerator keeps its memory, so none that waits does.
"""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp


def describe_device(size: int | None = None) -> dict[str, Any]:
    """Platform, kind, number, and TFLOP/s of a matrix product on one of them.

    Args:
        size: of the square matrices; by default large enough for the device.
    """
    devices = jax.devices()
    platform = devices[0].platform
    large, dtype = (2_048, jnp.float32) if platform == "cpu" else (8_192, jnp.bfloat16)
    size = size or large
    # In a row, so that a device never waits for the host.
    count = 1 if platform == "cpu" else 20
    matrix = jnp.full((size, size), 1.0 / size, dtype)
    multiply = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(11):
        started = time.perf_counter()
        product = matrix
        for _ in range(count):
            product = multiply(product, matrix)
        jax.block_until_ready(product)
        seconds.append((time.perf_counter() - started) / count)
    return {
        "platform": platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "product": f"{jnp.dtype(dtype).name} [{size}, {size}]",
        "peak_tflops": 2e-12 * size**3 / min(seconds[1:]),
    }


if __name__ == "__main__":
    print(json.dumps(describe_device()))
