"""The fastest large matrix product that this machine was seen to do."""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Findings
from benchmarks.run_settings import RunSettings

_DTYPES = ("float32", "bfloat16")
# Square sizes; a CPU has its peak at one of the two, a device at the large one.
_SIZES = {"cpu": (2_048, 4_096), "gpu": (8_192,), "tpu": (8_192,)}
_REPETITIONS = 5
# Products in a row, so that a device never waits for the host.
_PRODUCTS = {"cpu": 1, "gpu": 20, "tpu": 20}
_SECS_A_SIZE = 1.0


def measure_peak(settings: RunSettings, findings: Findings) -> None:
    """Times both libraries' products with both types."""
    for library, product in (("JAX", _jax_product), ("PyTorch", _torch_product)):
        for dtype in _DTYPES:
            try:
                rates: list[float] = [
                    rate
                    for size in _SIZES[settings.platform]
                    for rate in _rates(product(settings, dtype, size), settings, size)
                ]
            except (ImportError, ValueError) as error:
                findings.left_out(f"{library}, {dtype}", error)
                continue
            findings.figure("peak", "GFLOP/s", max(rates), of=f"{library}, {dtype}")


def _rates(run: Callable[[int], Any], settings: RunSettings, size: int) -> list[float]:
    """GFLOP/s of some repetitions; `run` does so many products, to their end."""
    count = _PRODUCTS[settings.platform]
    run(1)
    rates: list[float] = []
    end = time.monotonic() + _SECS_A_SIZE
    while len(rates) < _REPETITIONS and (not rates or time.monotonic() < end):
        started = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - started
        rates.append(2e-9 * count * size**3 / seconds)
    return rates


def _jax_product(settings: RunSettings, dtype: str, size: int) -> Callable[[int], Any]:
    import jax

    del settings
    # Or a GPU multiplies float32 as TF32.
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype) / size**0.5
    multiply = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=precision))

    def run(count: int) -> None:
        result = matrix
        for _ in range(count):
            result = multiply(result, matrix)
        jax.block_until_ready(result)

    return run


def _torch_product(
    settings: RunSettings, dtype: str, size: int
) -> Callable[[int], Any]:
    import torch

    from benchmarks.train_torch import device_of

    device = device_of(settings.platform)
    torch.backends.cuda.matmul.allow_tf32 = False
    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    matrix = matrix / size**0.5

    def run(count: int) -> None:
        result = matrix
        for _ in range(count):
            result = result @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run
