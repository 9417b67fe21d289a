"""Joining a job of several processes, and leaving it.

A command puts `taking_part` around its work. It must come before anything that touches a
device. Without a job it does nothing.
"""

import atexit
import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from bert_jax.config import ClusterConfig
from bert_jax.runtime import channel, process, start
from bert_jax.runtime.agreement import agree
from bert_jax.runtime.explanations import explanation
from bert_jax.runtime.failure import CRASHED, EndOfAllError, Failure
from bert_jax.runtime.job import find_job
from bert_jax.runtime.roll_call import bind_host, roll_call
from bert_jax.runtime.versions import versions

Tree = TypeVar("Tree")

# A device error is often only what follows from another process's end, which says more.
_WORD_SECS = 5.0


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
    me = process.Process(job.process_id, job.num_processes)
    if me.number == 0:
        print(f"joining the job: {job}", flush=True)
    process.become(me)
    mine = channel.Channel(me, roll_call(job, cfg.timeout_secs), leave_because_of)
    channel.use(mine)
    remedy = "Install the same on every host."
    agree("their software", versions(), remedy=remedy)
    # JAX's preemption service would end this process on SIGTERM, which the training loop
    # turns into a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    name, _, port = job.coordinator.rpartition(":")
    host = bind_host(name.strip("[]"))
    host = f"[{host}]" if ":" in host else host
    jax.distributed.initialize(
        job.coordinator,
        job.num_processes,
        job.process_id,
        local_device_ids=job.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=cfg.timeout_secs,
        coordinator_bind_address=f"{host}:{port}" if host else None,
    )
    start.last_words(lambda: mine.tell(start.interrupted(), 130))
    # Runs before JAX's own exit, in which all processes wait for each other.
    atexit.register(mine.close)
    devices = jax.local_devices()
    agree(
        "their devices",
        {"number of devices": len(devices), "kind of device": devices[0].device_kind},
    )
    if me.number == 0:
        kind = devices[0].device_kind
        print(f"{me.count} processes with {len(devices)} x {kind} each", flush=True)


@contextlib.contextmanager
def taking_part(cfg: ClusterConfig) -> Iterator[None]:
    """Joins as `initialize` does, and tells the others when this process fails."""
    try:
        initialize(cfg)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if channel.current() is not None and in_main_thread:
            # By default they would end this process without a word to the others.
            for number in start.STOP_SIGNALS:
                if signal.getsignal(number) == signal.SIG_DFL:
                    signal.signal(number, signal.default_int_handler)
        yield
    except EndOfAllError:
        raise
    except BaseException as error:
        job = channel.current()
        if job is not None:
            if _is_of_devices(error):
                first = job.failure_of_another(_WORD_SECS)
                if first is not None:
                    leave_because_of(first)
            exit_code = 130 if isinstance(error, KeyboardInterrupt) else 1
            said = explanation(error) or str(error) or type(error).__name__
            job.tell(said, exit_code)
            # JAX's own exit would wait for the others, which are ending too.
            atexit.register(_exit, exit_code)
        raise


def _is_of_devices(error: BaseException) -> bool:
    """Whether JAX or XLA raised it while devices exchanged arrays."""
    # A program that waits for its devices when it is called, as saving does, raises the
    # status as a ValueError: "UNKNOWN: Gloo AllGather failed: ...".
    return isinstance(error, JaxRuntimeError) or (
        isinstance(error, ValueError) and re.match("[A-Z_]+: ", str(error)) is not None
    )


def abort(message: str) -> None:
    """Ends this process and its job, with the stacks of all threads on standard error.

    The exit code is the one after which launchers start the job again. It can be called
    from any thread.
    """
    faulthandler.dump_traceback(file=2)
    print(f"bert-jax: {process.this()}: {message}", file=sys.stderr, flush=True)
    job = channel.current()
    if job is not None:
        job.tell(message, CRASHED, with_stacks=True)
        job.wait_to_be_last()
    os._exit(CRASHED)


def leave_because_of(failure: Failure) -> None:
    """Ends this process at once, for the reason of another one."""
    if failure.with_stacks:
        faulthandler.dump_traceback(file=2)
    print(f"bert-jax: {process.this()}: {failure}", file=sys.stderr, flush=True)
    _exit(failure.exit_code)


def _exit(exit_code: int) -> None:
    job = channel.current()
    assert job is not None
    job.wait_to_be_last()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


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
