"""What a layer with a window costs beside a global one, in long rows.

    python -m benchmarks.windows [--length 8192] [--window 128]

Attention alone, forward and backward: seconds on this machine, in turns, and, where the
extra `aot` is installed, FLOPs and bytes of the program that XLA makes for a TPU v5e. The
need is the FLOPs of the scores inside the window, each computed once. Writes
`windows-MACHINE-DATE.md` and `.json`.
"""

import dataclasses
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.machine import RESULTS, start_report
from benchmarks.results import Table
from bert_jax.config import DropoutConfig, MeshConfig
from bert_jax.model.attention import attend
from bert_jax.model.dropout import Dropout
from bert_jax.model.rows import Rows
from bert_jax.train import sharding
from bert_jax.train.flops import pairs_in_window
from bert_jax.train.mesh import make_mesh

_HEAD_SIZE = 64
_CHIP = "v5e:1x1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Compares the attention of a layer with a window and of a global layer."""

    length: int = 8_192
    """Tokens of a row."""
    window: int = 128
    """Tokens that a token sees, half of them on each side."""
    heads: int = 4
    """Heads that are measured here; for the TPU they are 12. A head is 64 wide."""
    rounds: int = 5
    """Turns of each kind of layer."""
    output: pathlib.Path = RESULTS
    """Folder of the two result files."""

    @property
    def reaches(self) -> dict[str, int | None]:
        return {"global": None, "local": self.window // 2}


def backward(reach: int | None) -> Callable[..., tuple[jax.Array, ...]]:
    """grads(q, k, v, ids), all [1, T, N, H] but the sequence ids, int32 [1, T]."""

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        rows = Rows(ids, jnp.zeros_like(ids), reach)
        out = attend(
            q, k, v, rows, kernel="auto", dropout=Dropout(None, DropoutConfig())
        )
        return jnp.square(out.astype(jnp.float32)).sum()

    return jax.grad(loss, argnums=(0, 1, 2))


def add_seconds(options: Options, table: Table) -> None:
    """Seconds on this machine, and how much less the window costs, turn by turn."""
    rng = np.random.default_rng(0)
    shape = (3, 1, options.length, options.heads, _HEAD_SIZE)
    q, k, v = jnp.asarray(rng.normal(size=shape), jnp.float32)
    ids = jnp.ones((1, options.length), jnp.int32)
    runs = {name: jax.jit(backward(reach)) for name, reach in options.reaches.items()}
    for run in runs.values():
        jax.block_until_ready(run(q, k, v, ids))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run(q, k, v, ids))
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        table.add(name, "forward and backward", "s", *values)
    pairs = zip(seconds["global"], seconds["local"], strict=True)
    table.add("local", "faster than global", "times", *(x / y for x, y in pairs))
    table.end()


def add_program(options: Options, table: Table) -> None:
    """FLOPs and bytes of the two programs for one chip, in bfloat16."""
    from bert_jax.topology.arithmetic import flops_of
    from bert_jax.topology.devices import devices_of, parse_topology
    from bert_jax.topology.hlo import parse_hlo
    from bert_jax.topology.program_text import program_text
    from bert_jax.topology.traffic import hbm_bytes_of

    mesh = make_mesh(MeshConfig(), devices_of(parse_topology(_CHIP, None)))
    place = sharding.replicated(mesh)
    shape = (1, options.length, 12, _HEAD_SIZE)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)] * 3
    ids = jax.ShapeDtypeStruct((1, options.length), jnp.int32, sharding=place)
    for name, reach in options.reaches.items():
        with sharding.on_mesh(mesh):  # so that kernels for TPUs are chosen
            lowered = jax.jit(backward(reach)).lower(*arrays, ids)
        module = parse_hlo(program_text(lowered, lowered.compile()))
        flops, silent = flops_of(module)
        pairs = options.length**2
        if reach is not None:
            pairs = pairs_in_window(options.length, reach)
        need = 3 * 4 * 12 * _HEAD_SIZE * pairs
        table.add(name, "needed", "GFLOP", need / 1e9)
        if silent:
            table.leave_out(
                f"{name}, FLOPs", f"{', '.join(silent)} does not state them"
            )
        else:
            bound = {"at_most": 1.3} if reach is not None else {}
            table.add(name, "computed", "GFLOP", flops / 1e9)
            table.add(name, "computed / needed", "", flops / need, **bound)
        table.add(name, "main memory", "GB", hbm_bytes_of(module) / 1e9)
    table.end()


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    settings = dataclasses.asdict(options)
    del settings["output"]
    with start_report("windows", settings, options.output) as report:
        about = f"Float32, {options.heads} heads, one row of {options.length:,} tokens."
        add_seconds(options, report.table("On this machine", about))
        about = f"Compiled, not run: bfloat16, 12 heads, {_CHIP}."
        table = report.table("The program for a TPU", about)
        if importlib.util.find_spec("libtpu") is None:
            table.leave_out("all of it", "libtpu is not installed (extra: aot)")
        else:
            add_program(options, table)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Options, description=__doc__)))
