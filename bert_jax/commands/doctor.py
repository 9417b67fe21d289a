"""`bert-jax doctor`: what this machine is, for its user and for a report of a fault."""

import dataclasses
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping

_PREFIXES = ("BERT_JAX_", "CUDA_VISIBLE", "JAX_", "LIBTPU_", "NCCL_", "TPU_", "XLA_")
_OTHERS = ("GLIBC_TUNABLES", "LD_PRELOAD", "OMP_NUM_THREADS", "PYTHONHASHSEED")
# Secrets are said to be set and are not shown.
_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD")
_NAME = re.compile(r"[\w.-]+")
_EXTRA = re.compile(r"""extra == ["']([\w-]+)["']""")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
    """Says what this machine is: versions, devices, memory, missing extras, JAX variables."""

    devices: bool = True
    """Start JAX and look at its devices. Leave that out where JAX itself hangs."""

    def run(self) -> None:
        for line in report(self.devices):
            print(line, flush=True)


def report(devices: bool) -> Iterator[str]:
    """Lines about this process's machine.

    Args:
        devices: whether JAX starts and its devices are looked at.

    Raises:
        RuntimeError: JAX cannot start on the platform that was asked for.
    """
    from bert_jax.runtime.versions import versions

    yield f"system: {platform.platform()}, {os.cpu_count()} cores"
    yield "versions: " + ", ".join(f"{name} {x}" for name, x in versions().items())
    yield from _variables(os.environ)
    for extra, missing in missing_extras().items():
        state = f"missing: {', '.join(missing)}" if missing else "installed"
        yield f"extra {extra}: {state}"
    if devices:
        yield from _devices()


def missing_extras() -> dict[str, list[str]]:
    """For each extra of the package, its libraries that are not installed."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("bert_jax") or ():
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name is None or extra is None:
            continue
        missing = found.setdefault(extra[1], [])
        # jax[cuda13] is JAX, with a plugin that has a name of its own.
        for needed in {"cuda": ["jax-cuda13-plugin"], "tpu": ["libtpu"]}.get(
            extra[1], [name[0]]
        ):
            try:
                importlib.metadata.version(needed)
            except importlib.metadata.PackageNotFoundError:
                missing.append(needed)
    return found


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environment):
        if name.startswith(_PREFIXES) or name in _OTHERS:
            shown = "(set)" if _SECRET.search(name) else environment[name]
            yield f"variable {name}={shown}"


def _devices() -> Iterator[str]:
    import jax
    import jax.numpy as jnp

    from bert_jax.model.attention import choose_kernel
    from bert_jax.model.products import uses_onednn
    from bert_jax.runtime.jax_settings import our_settings
    from bert_jax.train.memory import device_memory

    with our_settings():  # which says what it puts aside
        devices = jax.local_devices()
        for device in devices:
            memory = device_memory(device)
            size = "unknown memory" if memory is None else f"{memory / 2**30:.1f} GiB"
            yield f"device {device.id}: {device.platform}, {device.device_kind}, {size}"
        for dtype in (jnp.float32, jnp.bfloat16):
            kernel = choose_kernel(
                *("auto", devices[0].platform),
                num_keys=512,
                head_size=64,
                dtype=jnp.dtype(dtype),
                drops=True,
            )
            yield f"attention auto, {jnp.dtype(dtype).name}, 512 tokens, dropout: {kernel}"
        if devices[0].platform == "cpu":
            who = "oneDNN" if uses_onednn() else "XLA"
            yield f"bfloat16 products auto: {who}"
