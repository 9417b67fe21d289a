"""Which device JAX would use here, asked of a process of its own.

A process that has initialised JAX holds the device and, on a GPU, its memory: whoever
starts the measuring processes must not.
"""

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

_ASK = """
import json, jax
device, *others = jax.devices()
stats = device.memory_stats() or {}
print(json.dumps({
    "platform": device.platform,
    "kind": device.device_kind,
    "num_devices": 1 + len(others),
    "memory_bytes": stats.get("bytes_limit"),
    "compiler": device.client.platform_version,
}))
"""
_TIMEOUT_SECS = 120.0
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version,power.limit")


class DetectionError(RuntimeError):
    """JAX found no device."""


class Accelerator(NamedTuple):
    """The devices of this machine, as JAX sees them."""

    platform: str
    """"cpu", "gpu" or "tpu"."""
    kind: str
    """Of the first, such as "NVIDIA H200"."""
    num_devices: int
    memory_bytes: int | None
    """That JAX may use on the first; None: it does not say, as for every CPU."""
    compiler: str
    """What JAX's client says of its platform, such as the CUDA version."""
    driver: str | None
    """What nvidia-smi says of name, memory, driver and power of each."""

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


def find_accelerator() -> Accelerator:
    """Asks JAX in a process that ends at once.

    Raises:
        DetectionError: JAX cannot start, or does not within two minutes.
    """
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise DetectionError(
            f"JAX named no device within {_TIMEOUT_SECS:.0f} s; is another process "
            "holding it? JAX_PLATFORMS=cpu measures the CPU."
        ) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise DetectionError(
            f"JAX found no device: {said[-1] if said else 'no reason given'}. "
            "JAX_PLATFORMS=cpu measures the CPU."
        ) from None
    found = json.loads(asked.stdout.strip().splitlines()[-1])
    driver = _driver() if found["platform"] == "gpu" else None
    return Accelerator(**found, driver=driver)


def use_only(found: Accelerator) -> None:
    """Keeps the processes started from here to that platform, and true to its memory."""
    # Where libtpu is installed without a TPU, each would look for one.
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda,cpu"}.get(
        found.platform, found.platform
    )
    if found.platform == "gpu":
        # Or peak memory is what the allocator reserved, and PyTorch finds none.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def _driver() -> str | None:
    try:
        said = subprocess.run(
            [*_SMI, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(said.stdout.strip().splitlines())
