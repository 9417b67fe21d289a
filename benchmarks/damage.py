"""Damages files of checkpoints and of datasets at random: is every damage found, and named?

    python -m benchmarks.damage --damages 1000

One bit is flipped, a file is cut short or deleted, or a block is set to zero; then what
commands do before they read is done, and the file is put back. A second part measures what
the hashes cost.
"""

import contextlib
import dataclasses
import functools
import pathlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import tyro

from benchmarks.machine import start_report
from benchmarks.results import Table

KINDS = ("flip", "truncation", "deletion", "zeroed block")
# Orbax writes them to say when a checkpoint was complete. Nothing here reads them.
UNUSED = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt"})
_BLOCK_BYTES = 4_096
_REPEATS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    damages: int = 1_000
    """Number of damages to a checkpoint, and of damages to the arrays of a dataset."""
    seed: int = 0
    """Seed of the files, the kinds and the places."""
    gigabytes: float = 0.5
    """Size of the tokens whose check is timed."""
    output: pathlib.Path = pathlib.Path("benchmarks/results")
    """Folder of the results."""


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def damage_one(path: pathlib.Path, draw: random.Random) -> Iterator[str]:
    """Damages a file while its block runs; says how. The content differs in any case."""
    content = path.read_bytes()
    kind = KINDS[0]
    damaged: bytes | None = content
    while damaged == content:  # an empty file can only be deleted
        kind = draw.choice(KINDS)
        place = draw.randrange(max(len(content), 1))
        if kind == "flip" and content:
            bit = content[place] ^ (1 << draw.randrange(8))
            damaged = content[:place] + bytes([bit]) + content[place + 1 :]
        elif kind == "truncation":
            damaged = content[:place]
        elif kind == "zeroed block":
            end = min(place + _BLOCK_BYTES, len(content))
            damaged = content[:place] + bytes(end - place) + content[end:]
        elif kind == "deletion":
            damaged = None
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    try:
        yield kind
    finally:
        path.write_bytes(content)


def _checkpoint(run: pathlib.Path, layers: int, width: int, pieces: int):  # type: ignore[no-untyped-def]
    """Saves a state of BERT's shapes with random moments; returns it and its identity."""
    import jax
    import optax

    from bert_jax.config import ModelConfig
    from bert_jax.model import pretraining
    from bert_jax.train.runs.checkpoint import Checkpoints
    from bert_jax.train.runs.checkpoint_fit import Identity
    from bert_jax.train.step import init_state

    model = ModelConfig(
        vocab_size=pieces,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        mlp_size=4 * width,
    )
    identity = Identity(model, "a" * 64)
    init = functools.partial(pretraining.init_params, model)
    state = jax.jit(lambda: init_state(init, optax.adam(1e-4), 0))()
    key = iter(jax.random.split(jax.random.key(1), 1_000))
    moments = jax.tree.map(
        lambda x: jax.random.normal(next(key), x.shape) if x.ndim else x,
        state.opt_state,
    )
    state = dataclasses.replace(state, step=state.step + 1, opt_state=moments)
    with Checkpoints(run, identity) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    return state, identity


def damage_checkpoint(options: Options, folder: pathlib.Path, table: Table) -> None:
    """Counts what was found by the name of the file, and what was without effect."""
    import jax

    from bert_jax.train.runs.checkpoint import Checkpoints
    from bert_jax.train.runs.checkpoint_files import damage_of

    state, identity = _checkpoint(folder, 2, 128, 1_000)
    checkpoint = folder / "checkpoints" / "1"
    files, draw = files_of(checkpoint), random.Random(options.seed)

    def is_as_before() -> bool:
        with Checkpoints(folder, identity, read_only=True) as checkpoints:
            restored = checkpoints.restore(state)
        same = jax.tree.map(np.array_equal, restored, state)
        return all(jax.tree.leaves(same))

    counts = {kind: [0, 0, 0] for kind in KINDS}
    for _ in range(options.damages):
        path = draw.choice(files)
        with damage_one(path, draw) as kind:
            found = damage_of(checkpoint)
            if found is not None and str(path) in found:
                counts[kind][0] += 1
            elif found is None and path.name in UNUSED and is_as_before():
                counts[kind][1] += 1
            else:
                counts[kind][2] += 1
    _add(counts, table)


def damage_dataset(options: Options, folder: pathlib.Path, table: Table) -> None:
    """The same with the arrays that training reads, and the file of their hashes."""
    from bert_jax.data.prepared.index import open_index

    draw, sizes = random.Random(options.seed), (200_000, 8_001, 501)
    opened = functools.partial(open_index, folder, "a" * 64, "train", sizes)
    opened(functools.partial(_write_arrays, sizes))
    files = files_of(folder / "index" / "train")
    counts = {kind: [0, 0, 0] for kind in KINDS}
    for _ in range(options.damages):
        path = draw.choice(files)
        with damage_one(path, draw) as kind:
            try:
                opened(lambda _: None)
                message = ""
            except ValueError as error:
                message = str(error)
            counts[kind][0 if str(path) in message else 2] += 1
    _add(counts, table)


def _write_arrays(sizes: tuple[int, int, int], folder: pathlib.Path) -> None:
    from bert_jax.data.prepared.store import TokenStore

    draw = np.random.default_rng(0)
    for name, size in zip(TokenStore._fields, sizes, strict=True):
        kind = np.uint16 if name == "tokens" else np.int64
        np.save(folder / f"{name}.npy", draw.integers(1, 30_000, size, kind))


def _add(counts: dict[str, list[int]], table: Table) -> None:
    columns = ("found and named", "without effect")
    for kind, (*numbers, missed) in counts.items():
        for what, number in zip(columns, numbers, strict=True):
            table.add(kind, what, "", number)
        table.add(kind, "missed", "", missed, at_most=0)
    table.end()


def measure_checkpoint(folder: pathlib.Path, table: Table) -> None:
    """Times of a save and of a restore, and of the hashes within them."""
    from bert_jax.train.runs import checkpoint_items
    from bert_jax.train.runs.checkpoint import Checkpoints
    from bert_jax.train.runs.checkpoint_files import damage_of

    state, identity = _checkpoint(folder, 4, 512, 30_522)
    hashed: list[float] = []
    add_hashes = checkpoint_items.add_hashes

    def timed(*args: pathlib.Path) -> None:
        began = time.perf_counter()
        add_hashes(*args)
        hashed.append(time.perf_counter() - began)

    checkpoint_items.add_hashes = timed  # type: ignore[assignment]
    saved, called = [], []
    with Checkpoints(folder, identity) as checkpoints:
        for step in range(2, 2 + _REPEATS):
            next_state = dataclasses.replace(state, step=state.step * 0 + step)
            began = time.perf_counter()
            checkpoints.save(next_state)
            called.append(time.perf_counter() - began)
            checkpoints.wait()
            saved.append(time.perf_counter() - began)
    checkpoint_items.add_hashes = add_hashes
    checked, restored = [], []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        damage_of(folder / "checkpoints" / str(step))
        checked.append(time.perf_counter() - began)
        with Checkpoints(folder, identity, read_only=True) as checkpoints:
            began = time.perf_counter()
            checkpoints.restore(state)
            restored.append(time.perf_counter() - began)
    size = sum(path.stat().st_size for path in files_of(folder / "checkpoints"))
    table.add("checkpoint of BERT-small", "size", "MB", size / 1e6)
    table.add("save", "until training goes on", "s", *called)
    table.add("save", "until it is on the disk", "s", *saved)
    table.add("save", "hashes in the background", "s", *hashed)
    shares = [a / b for a, b in zip(hashed, saved, strict=True)]
    table.add("save", "hashes' share", "", *shares)
    table.add("restore", "hashes compared", "s", *checked)
    table.add("restore", "with the hashes", "s", *restored)


def measure_dataset(options: Options, folder: pathlib.Path, table: Table) -> None:
    """Time to check the arrays of a split, which a command does once when it opens them."""
    from bert_jax.data.prepared.index import open_index

    sizes = (int(options.gigabytes * 1e9) // 2, 1_001, 11)
    opened = functools.partial(open_index, folder, "a" * 64, "train", sizes)
    opened(functools.partial(_write_arrays, sizes))
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        opened(lambda _: None)
        seconds.append(time.perf_counter() - began)
    table.add("tokens of a split", "size", "MB", options.gigabytes * 1e3)
    table.add("tokens of a split", "check", "s", *seconds)
    rates = [options.gigabytes / x for x in seconds]
    table.add("tokens of a split", "rate", "GB/s", *rates)


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    settings = {"damages": options.damages, "seed": options.seed}
    with (
        start_report("damage", settings, options.output) as report,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = pathlib.Path(name)
        about = (
            "Without effect: damage to files that Orbax writes and nothing reads "
            f"({', '.join(sorted(UNUSED))}); the restored state is equal bit by bit."
        )
        (folder / "checkpoint").mkdir()
        table = report.table("Damaged checkpoint", about)
        damage_checkpoint(options, folder / "checkpoint", table)
        about = "The arrays that training reads, and the file that holds their hashes."
        (folder / "dataset").mkdir()
        table = report.table("Damaged arrays of a dataset", about)
        damage_dataset(options, folder / "dataset", table)
        table = report.table("What the hashes cost", "Medians and ranges of five.")
        shutil.rmtree(folder / "dataset")
        for part in ("large", "dataset"):
            (folder / part).mkdir()
        measure_checkpoint(folder / "large", table)
        measure_dataset(options, folder / "dataset", table)
        table.end()
    return report.exit_code


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Options, description=__doc__)))
