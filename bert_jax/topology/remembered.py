"""Compiled results in a file, so that a search that was stopped goes on."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any

from bert_jax.config import PretrainConfig
from bert_jax.topology.candidates import Measured
from bert_jax.topology.search import Measure

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# What a compiled step is made of, and what reads it.
_ROOMS = (
    "batch.py",
    "config",
    "limits.py",
    "model",
    "runtime/chips.py",
    "topology/collectives.py",
    "topology/compiled.py",
    "topology/devices.py",
    "topology/estimate.py",
    "topology/groups.py",
    "topology/hlo.py",
    "topology/program_text.py",
    "topology/traffic.py",
    "train",
)
_COMPILERS = ("jax", "jaxlib", "libtpu", "flax", "optax")


class Remembered:
    """A `Measure` that asks another one only for what its file does not hold.

    Each line of the file is one result with the key of its program: of everything in
    the config that the program depends on, the topology, this package's code and the
    compilers. Results of other code are kept and not used.
    """

    def __init__(self, measure: Measure, path: pathlib.Path, topology: str) -> None:
        self._measure, self._path, self._topology = measure, path, topology
        self._results = _read(path)

    def __call__(self, phase: PretrainConfig) -> Measured:
        """As the other one; its errors are not remembered."""
        key = program_key(phase, self._topology)
        if key not in self._results:
            result = self._measure(phase)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **result._asdict()}) + "\n")
            self._results[key] = result
        return self._results[key]


def program_key(phase: PretrainConfig, topology: str) -> str:
    """SHA-256 of all that the compiled step of a phase depends on.

    Rates and numbers of steps, seeds, files and the loop's habits are not among it.
    """
    data = dataclasses.asdict(phase.data)
    optimizer = dataclasses.asdict(phase.optimizer)
    parts: dict[str, Any] = {
        "model": dataclasses.asdict(phase.model),
        "mesh": dataclasses.asdict(phase.mesh),
        "masking": dataclasses.asdict(phase.masking),
        "data": {
            name: data[name]
            for name in (
                "sequence_length",
                "pairs",
                "layout",
                "max_pairs_per_row",
                "bucket_lengths",
            )
        },
        "optimizer": {
            name: optimizer[name]
            for name in ("name", "bias_correction", "freeze", "freeze_layers")
        },
        "batch_size": phase.batch_size,
        "micro_batches": phase.micro_batches,
        "topology": topology,
        "code": _code(),
        "compilers": {name: _version(name) for name in _COMPILERS},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(path: pathlib.Path) -> dict[str, Measured]:
    results = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # stopped in the middle of a line, which the next would join
        path.write_text(whole, encoding="utf-8")
    for line in whole.splitlines():
        fields = json.loads(line)
        key = fields.pop("key")
        results[key] = Measured(**fields)
    return results


@functools.cache
def _code() -> str:
    digest = hashlib.sha256()
    for room in _ROOMS:
        place = _PACKAGE / room
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(str(file.relative_to(_PACKAGE)).encode() + b"\0")
            digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
