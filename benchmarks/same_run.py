"""Whether two run directories, or two prepared datasets, hold the same.

What depends on the clock or the machine's load is left out: times, speeds and memory.
"""

import json
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

_TIMES = re.compile(r"_secs$|_per_sec$|^goodput|^input_wait|^peak_|^mfu$|^versions$")
# A name that stays when a process is killed while it writes.
_LEFT_OVER = re.compile(r"\.partial-|\.orbax-checkpoint-tmp|^damaged$|^\.seen-by-all")


def differences(found: pathlib.Path, expected: pathlib.Path, limit: float) -> list[str]:
    """What differs between two runs of `pretrain` or `finetune`, in words.

    Compared are all tensors of all checkpoints and of the best state, the lines of metrics,
    the points of TensorBoard, results, and the names of files.

    Args:
        found: a run directory.
        expected: the run directory of an untouched run.
        limit: largest difference between numbers, relative to the larger one or 1. With 0,
            tensors must be equal bit by bit. Otherwise the devices may be others.
    """
    lines = [
        line
        for part in (_names, _tensors, _metrics, _points, _results)
        for line in _compare(
            part.__name__[1:], dict(part(found)), dict(part(expected)), limit
        )
    ]
    device = "results: results.json device "
    return [line for line in lines if limit == 0 or not line.startswith(device)]


def differences_of_datasets(found: pathlib.Path, expected: pathlib.Path) -> list[str]:
    """The same for two datasets of `prepare`, which must be equal byte by byte."""
    one, other = (
        {str(x.relative_to(home)): x for x in home.rglob("*") if x.is_file()}
        for home in (found, expected)
    )
    return [
        f"file {name}"
        for name in sorted(one.keys() | other.keys())
        if name not in one
        or name not in other
        or one[name].read_bytes() != other[name].read_bytes()
    ]


def _compare(
    part: str, found: dict[str, Any], expected: dict[str, Any], limit: float
) -> Iterator[str]:
    for name in sorted(found.keys() ^ expected.keys()):
        yield f"{part}: {name} is {'missing' if name in expected else 'too much'}"
    for name in sorted(found.keys() & expected.keys()):
        a, b = found[name], expected[name]
        if isinstance(a, float | np.ndarray) and isinstance(b, float | np.ndarray):
            is_same = _equal(np.asarray(a), np.asarray(b), limit)
        else:
            is_same = a == b
        if not is_same:
            yield f"{part}: {name} is {str(a)[:80]}, not {str(b)[:80]}"


def _equal(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if limit == 0 or not np.issubdtype(a.dtype, np.floating):
        return a.tobytes() == b.tobytes()
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), 1.0)
    return bool((np.abs(a - b) <= limit * scale).all())


def _names(run: pathlib.Path) -> Iterator[tuple[str, Any]]:
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        if any(map(_LEFT_OVER.search, parts)) or len(parts) == 1:
            yield "/".join(parts), path.is_dir()


def _tensors(run: pathlib.Path) -> Iterator[tuple[str, Any]]:
    import jax
    import orbax.checkpoint as ocp
    from absl import logging

    logging.set_verbosity(
        logging.ERROR
    )  # Orbax misses files that the program never has
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        items = [*run.glob("checkpoints/*/*/"), *run.glob("best/*/*/")]
        for item in sorted(items):
            if item.name not in ("params", "opt_state", "rest"):
                continue
            tree = reader.metadata(item).item_metadata
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
            )
            restored = reader.restore(item, restore_args=as_numpy)
            for path, leaf in jax.tree.leaves_with_path(restored):
                yield (
                    f"{item.relative_to(run)}{jax.tree_util.keystr(path)}",
                    np.asarray(leaf),
                )


def _metrics(run: pathlib.Path) -> Iterator[tuple[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    for number, line in enumerate(lines):
        yield from _flat(f"line {number}: {line['kind']} {line['step']}", line)


def _points(run: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """What TensorBoard shows: a session that begins at a step hides older points from it on."""
    points: list[tuple[str, int, float]] = []
    for path in sorted((run / "tensorboard").glob("events.*")):
        for event in _events(path.read_bytes()):
            if event.HasField("session_log"):
                points = [point for point in points if point[1] < event.step]
            points += [(x.tag, event.step, x.simple_value) for x in event.summary.value]
    steps: dict[str, list[int]] = {}
    for tag, step, value in points:
        # A speed has no point where all steps since the last one compiled.
        if not _TIMES.search(tag.partition("/")[2]):
            steps.setdefault(tag, []).append(step)
            yield f"{tag} at step {step}", value
    yield from ((f"steps of {tag}", sorted(found)) for tag, found in steps.items())


def _events(content: bytes) -> Iterator[Any]:
    """The events of a file; a kill may cut off the last one."""
    from tensorboardX.proto.event_pb2 import Event

    start = 0
    while start + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, start)
        if start + 12 + size + 4 > len(content):
            return
        yield Event.FromString(content[start + 12 : start + 12 + size])
        start += size + 16


def _results(run: pathlib.Path) -> Iterator[tuple[str, Any]]:
    yield from _flat("results.json", json.loads((run / "results.json").read_text()))
    logits = run / "held_out_logits.npz"
    if logits.exists():
        with np.load(logits) as arrays:
            yield from ((f"{logits.name}: {name}", arrays[name]) for name in arrays)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Numbers and texts by the names that lead to them; what depends on time is left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _TIMES.search(key) and key not in ("sha256", "crc32"):
                yield from _flat(f"{name} {key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(f"{name} {number}", inner)
    else:
        yield name, value
