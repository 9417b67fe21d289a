"""Into a job and out of it again; a process alone notices nothing of this.

`taking_part` is what a command puts around its work. It must come before anything that
touches a device.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from bert_jax.config import ClusterConfig
from bert_jax.runtime import coordination, failure, process
from bert_jax.runtime.agreement import agree
from bert_jax.runtime.job import find_job
from bert_jax.runtime.roll_call import roll_call
from bert_jax.runtime.versions import versions

Tree = TypeVar("Tree")


def initialize(cfg: ClusterConfig) -> None:
    """Joins the job that `cfg` or the environment names; does nothing without one.

    Returns when all processes are there, run the same software, see equally many devices
    of one kind, and can exchange arrays. From then on only process 0 prints.

    Raises:
        ValueError: the job cannot be read from the environment, or its processes differ.
        TimeoutError: processes are missing; they are named.
        RuntimeError: JAX has used a device before.
    """
    job = find_job(cfg)
    if job is None:
        return
    who = process.Process(job.process_id, job.num_processes)
    if who.number == 0:
        print(f"joining the job: {job}", flush=True)
    process.become(who)
    roll_call(job, versions(), cfg.timeout_secs)
    # The first would end this process with a message of its own on SIGTERM, which the
    # training loop turns into a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in os.environ:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        job.coordinator,
        job.num_processes,
        job.process_id,
        local_device_ids=job.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=cfg.timeout_secs,
    )
    failure.Watch()
    devices = jax.local_devices()
    agree(
        "their devices",
        {"number of devices": len(devices), "kind of device": devices[0].device_kind},
    )
    if who.number == 0:
        print(
            f"{who.count} processes with {len(devices)} x {devices[0].device_kind} each",
            flush=True,
        )


@contextlib.contextmanager
def taking_part(cfg: ClusterConfig) -> Iterator[None]:
    """Joins as `initialize` does, and tells the others when this process fails."""
    try:
        initialize(cfg)
        if coordination.is_connected() and _in_main_thread():
            # By default it would end this process without a word to the others.
            signal.signal(signal.SIGTERM, _interrupt)
        yield
    except failure.EndOfAllError:
        raise
    except BaseException as error:
        if coordination.is_connected():
            # Often only what follows from another's failure, which says more.
            first = failure.failed_soon() if _is_jax(error) else None
            if first is not None:
                failure.leave_with(first)
            failure.tell(error)
        raise


def fetch(tree: Tree) -> Tree:
    """All arrays of a tree, whole and as NumPy, in every process.

    One leaf after the other is brought together on the devices, so they need room for
    the largest. All processes must call it.
    """
    return jax.tree.map(_fetch, tree)


def _fetch(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return multihost_utils.process_allgather(leaf, tiled=True)


def _is_jax(error: BaseException) -> bool:
    return isinstance(error, JaxRuntimeError)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
