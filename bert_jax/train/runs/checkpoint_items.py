"""How Orbax writes and reads the items of a checkpoint, and which of its log lines are printed.

Only this module and `checkpoint.py` use Orbax.
"""

import logging
import pathlib
import sys
import threading
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bert_jax.train.runs.checkpoint_files import MANIFEST, add_hashes

# Orbax warns each time a directory is opened read-only; these warnings are expected.
_EXPECTED = ("CheckpointManagerOptions.read_only=True", "Given directory is read only")


# Devices with copies of an array share the work of writing it where each gets so much. For
# less, the program that cuts out a device's slice takes longer to compile than is saved.
_MIN_SLICE_BYTES = 1 << 20


class _ManifestHandler(ocp.JsonCheckpointHandler):
    """Adds the hashes of the files. Orbax calls `finalize` in the first process alone,
    when all processes have written their parts, and before the checkpoint gets its name.
    """

    def finalize(self, directory: Any) -> None:
        manifest = pathlib.Path(directory)
        add_hashes(manifest.parent, manifest)


def handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """Of the items, in the order in which Orbax completes them: the manifest is last."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    arrays = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=_MIN_SLICE_BYTES
    )
    types = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
    for item in ("params", "opt_state", "rest"):
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=types)
        registry.add(item, ocp.args.PyTreeSave, handler)
        registry.add(item, ocp.args.PyTreeRestore, handler)
    registry.add(MANIFEST, ocp.args.JsonSave, _ManifestHandler())
    return registry


def restored(item: Any, *, partial: bool) -> ocp.args.PyTreeRestore:
    """What restores abstract arrays from an item; if `partial`, it may hold more than them.

    Orbax says nothing if it holds others, so the caller compares names and shapes first.
    """
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    return ocp.args.PyTreeRestore(
        item, restore_args=restore_args, partial_restore=partial
    )


def barrier(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes, unless what this one has written has failed.

    Orbax's thread would wait 20 minutes for processes that wait for its files, and then
    raise an error that says nothing of the first one.
    """
    failed = sys.exc_info()[1]
    if failed is not None and threading.current_thread() is not threading.main_thread():
        raise failed
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def _is_news(line: logging.LogRecord) -> bool:
    """Whether a log line of Orbax or asyncio should be printed.

    Each of Orbax's threads and tasks also logs the traceback of an error on its way to
    `wait`, which raises it.
    """
    text = line.getMessage()
    is_traceback = line.exc_info is not None and "orbax" in line.pathname + text
    return not is_traceback and not text.startswith(_EXPECTED)


def silence_expected_lines() -> None:
    """Prints no line that tells a user nothing."""
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_is_news)
