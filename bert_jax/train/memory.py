"""Refuses, before anything is allocated, a run that the memory of its devices cannot hold.

What is counted is less than what a run takes, so that nothing that works is refused: the
parameters, the optimizer's state, a batch, and the hidden states of one layer for as many
rows as are computed at once. Gradients and the states of other layers come on top.
"""

import contextlib
import os
import pathlib
import re

import jax
from jax.sharding import Mesh

from bert_jax.config import ModelConfig
from bert_jax.train.sharding import bytes_per_device, num_row_parts
from bert_jax.train.step import TrainState

_HIDDEN_BYTES = 2  # of a unit; float32 takes 4
_SIZES = (
    *("vocab_size", "embed_size", "hidden_size", "num_layers", "mlp_size"),
    *("max_positions", "num_segments"),
)
# Of cgroups version 2 and 1.
_CGROUP = pathlib.Path("/sys/fs/cgroup")
_LIMITS = (_CGROUP / "memory.max", _CGROUP / "memory/memory.limit_in_bytes")
_MEMINFO = pathlib.Path("/proc/meminfo")


def check_memory(
    mesh: Mesh,
    model: ModelConfig,
    state: TrainState,
    *,
    batch_size: int,
    length: int,
    micro_batches: int = 1,
) -> None:
    """Compares what a run needs at least with the memory of this process's devices.

    Args:
        mesh: devices that the run is on.
        model: architecture of the encoder.
        state: abstract, with its placements.
        batch_size: rows of the global batch.
        length: tokens of its longest rows.
        micro_batches: number of parts that the batch is computed in.

    Raises:
        ValueError: a device has less memory; the message names the fields that ask for
            most of it.
    """
    device = mesh.local_devices[0]
    room = device_memory(device)
    if room is None:
        return
    of_state = bytes_per_device(state)
    rows = -(-batch_size // num_row_parts(mesh))
    at_once = -(-rows // micro_batches) * -(-length // mesh.shape["sequence"])
    # Token ids, segments and what tells padding are int32.
    of_batch = rows * length * 3 * 4 + at_once * model.hidden_size * _HIDDEN_BYTES
    if of_state + of_batch <= room:
        return
    where = "is there for each device" if device.platform == "cpu" else "the device has"
    if of_state > of_batch:
        sizes = {name: getattr(model, name) for name in _SIZES}
        said = (f"{name}={x}" for name, x in sizes.items() if x is not None)
        what = f"ModelConfig.{', '.join(said)}"
        remedy = (
            "Choose a smaller model, or split it with --mesh.fsdp over more devices."
        )
    else:
        what = f"batch_size={batch_size} with rows of {length} tokens"
        remedy = "Lower --batch-size or the sequence length, or raise --micro-batches."
    raise ValueError(
        f"{what} needs more memory than there is: at least {_said(of_state)} for "
        f"parameters and optimizer and {_said(of_batch)} for a batch, but {_said(room)} "
        f"{where}. {remedy}"
    )


def device_memory(device: jax.Device) -> int | None:
    """Bytes that programs on a device may have; `None`: nobody says.

    CPU devices share the machine's memory.
    """
    if device.platform == "cpu":
        total = host_memory()
        count = len([x for x in jax.local_devices() if x.platform == "cpu"])
        return None if total is None else total // max(count, 1)
    limit: int | None = (device.memory_stats() or {}).get("bytes_limit")
    return limit


def host_memory() -> int | None:
    """Bytes of memory and swap of this machine, or of the container that limits it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(limit.read_text()))  # the text "max": no limit
    with contextlib.suppress(OSError):
        swap = re.search(r"SwapTotal: *(\d+) kB", _MEMINFO.read_text())
        total += int(swap[1]) * 1024 if swap else 0
    return total


def _said(size: int) -> str:
    gib = size / 2**30
    return f"{gib:.1f} GiB" if gib < 10_000 else f"{gib / 2**10:,.0f} TiB"
