"""Every shipped pretraining config, compiled for every machine that is not here.

    python -m benchmarks.topologies [--configs bert_base ...] [--topologies v5e:4x4 ...]

Needs libtpu (extra `aot`) and no TPU. Each phase is compiled in a process of its own, one
after the other. What is done is kept in `--kept`: stopped by Ctrl-C, the same command
goes on, and a larger one begins with it. In the end the table is written to
`benchmarks/results/topologies-MACHINE-DATE.md` and everything to the `.json` beside it.
"""

import dataclasses
import json
import pathlib
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tyro

from benchmarks.machine import describe_machine
from benchmarks.results import describe_lines
from bert_jax.config import PretrainConfig
from bert_jax.topology.apart import compile_apart
from bert_jax.topology.remembered import program_key

_HERE = pathlib.Path(__file__).resolve().parent
_CONFIGS = _HERE.parent / "configs"
_GIB = 2**30

Compile = Callable[[PretrainConfig, str], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Compiles shipped configs for machines that are not here, and writes a table."""

    configs: tuple[str, ...] = ()
    """Names of files in configs/; all that pretrain by default."""
    topologies: tuple[str, ...] = (
        "v5e:4x4",
        "v5p:2x2x2",
        "v6e:16x16",
        "v5e:2x2",
        "v4:2x2x2",
        "v5e:4x4x2slices",
    )
    output: pathlib.Path = _HERE / "results"
    """Folder of the result files."""
    kept: pathlib.Path = _HERE / "results" / "topologies.kept.jsonl"
    """What was compiled, by its code and compilers, and is not compiled again."""


class Task(NamedTuple):
    """One phase for one machine."""

    config: str
    number: int
    """Of the phase, from 1."""
    num_phases: int
    phase: PretrainConfig
    topology: str

    def describe(self) -> str:
        part = f" phase {self.number}" if self.num_phases > 1 else ""
        return f"{self.config}{part} for {self.topology}"


def pretraining_configs(names: Sequence[str]) -> dict[str, PretrainConfig]:
    """The shipped configs of `pretrain` by name.

    Raises:
        ValueError: one of `names` is not among them.
    """
    found = {}
    for path in sorted(_CONFIGS.glob("*.py")):
        config = runpy.run_path(str(path))["get_config"]()
        if isinstance(config, PretrainConfig):
            found[path.stem] = config
    if unknown := sorted(set(names) - set(found)):
        raise ValueError(
            f"--configs {' '.join(unknown)}: no such config; there are "
            f"{', '.join(found)}."
        )
    return {name: found[name] for name in names or found}


def tasks_of(options: Options) -> list[Task]:
    """All of them, machine by machine.

    Raises:
        ValueError: a config or a topology does not exist.
    """
    from bert_jax.topology.devices import parse_topology

    for topology in options.topologies:
        parse_topology(topology)
    configs = pretraining_configs(options.configs)
    return [
        Task(name, number, len(config.phases), phase, topology)
        for topology in options.topologies
        for name, config in configs.items()
        for number, phase in enumerate(config.phases, start=1)
    ]


def run(
    tasks: Sequence[Task],
    kept: pathlib.Path,
    compile_phase: Compile,
    tell: Callable[[str], None] = print,
) -> tuple[list[tuple[Task, dict[str, Any]]], bool]:
    """Compiles what `kept` does not hold, and adds it there.

    Returns:
        Tasks with what came out, `error` where a step could not be compiled; and whether
        all were done.
    """
    done = {}
    if kept.exists():
        for line in kept.read_text().splitlines(True):
            if line.endswith("\n"):
                entry = json.loads(line)
                done[entry["key"]] = entry["result"]
    results: list[tuple[Task, dict[str, Any]]] = []
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Whole lines only, or the next would join the half one.
    kept.write_text(
        "".join(
            json.dumps({"key": k, "result": result}) + "\n"
            for k, result in done.items()
        )
    )
    for number, task in enumerate(tasks, start=1):
        key = program_key(task.phase, task.topology)
        if key not in done:
            tell(f"[{number}/{len(tasks)}] {task.describe()} ...")
            try:
                result = compile_phase(task.phase, task.topology)
            except KeyboardInterrupt:
                return results, False
            except (ValueError, RuntimeError) as error:
                result = {"error": str(error)}
            done[key] = result
            if "error" not in result:  # or the next run would not try again
                with kept.open("a") as file:
                    file.write(json.dumps({"key": key, "result": result}) + "\n")
            tell(table_line(task, result))
        results.append((task, done[key]))
    return results, True


_HEADER = (
    "config",
    "tokens",
    "rows",
    "machine",
    "parameters",
    "optimizer",
    "temporaries",
    "total of limit, GiB",
    "fits",
    "PFLOP a step",
    "step, ms (estimate)",
    "sent a chip by axis, GiB",
    "compiled in, s",
)


def table(results: Sequence[tuple[Task, dict[str, Any]]]) -> list[str]:
    """Lines of Markdown; memory in GiB of a chip."""
    return [
        f"| {' | '.join(_HEADER)} |",
        f"|{' --- |' * len(_HEADER)}",
        *(table_line(task, result) for task, result in results),
    ]


def table_line(task: Task, result: dict[str, Any]) -> str:
    """One row of `table`."""
    phase = task.phase
    rows = f"{phase.batch_size:,}"
    if phase.micro_batches > 1:
        rows += f" in {phase.micro_batches}"
    cells = [task.config, str(phase.data.sequence_length), rows, task.topology]
    if "error" in result:
        cells += ["", "", "", "", f"not compiled: {_first_sentence(result['error'])}"]
        return f"| {' | '.join(cells + [''] * (len(_HEADER) - len(cells)))} |"
    memory, estimate = result["memory"], result["estimate"]
    cells += [_gib(memory[name]) for name in ("parameters", "optimizer", "temporaries")]
    limit = "" if memory["limit"] is None else f" of {_gib(memory['limit'])}"
    cells += [_gib(memory["total"]) + limit, "yes" if result["fits"] else "**no**"]
    flops = result["flops"]
    cells.append("" if flops is None else f"{flops * result['num_devices'] / 1e15:.3g}")
    cells.append(
        ""
        if estimate is None
        else f"{estimate['fastest'] * 1e3:.3g}–{estimate['slowest'] * 1e3:.3g}"
    )
    cells += [_sent(result["collectives"]), f"{result['compile_secs']:.0f}"]
    return f"| {' | '.join(cells)} |"


def _sent(collectives: Sequence[dict[str, Any]]) -> str:
    by_axis: dict[str, int] = {}
    for one in collectives:
        axes = "·".join(one["axes"])
        by_axis[axes] = by_axis.get(axes, 0) + one["moved_bytes"]
    return ", ".join(f"{axes} {_gib(sent)}" for axes, sent in by_axis.items() if axes)


def _gib(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / _GIB:.2f}"


def _first_sentence(text: str) -> str:
    return text.splitlines()[0].partition("; ")[0].replace("|", "/")


def write(
    folder: pathlib.Path,
    machine: dict[str, Any],
    results: Sequence[tuple[Task, dict[str, Any]]],
    *,
    complete: bool,
) -> list[pathlib.Path]:
    """Writes the table and everything behind it; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"topologies-{machine['machine']}-{machine['date']}"
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    remarks = [
        "Compiled, not run: memory and FLOPs are the compiler's, of one chip and of the "
        "whole machine; the time of a step is an estimate, from all that can overlap to "
        "nothing overlapped (`bert-jax compile` states its assumptions)."
    ]
    if not complete:
        remarks.append("**Interrupted**: these are the results up to then.")
    content = {
        "benchmark": "topologies",
        "remarks": remarks,
        "machine": machine,
        "complete": complete,
        "results": [
            {"config": task.config, "phase": task.number, "machine": task.topology}
            | result
            for task, result in results
        ],
    }
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    lines = [f"# topologies: {machine['date']}", ""]
    for line in (*describe_lines(machine), *remarks):
        lines += [line, ""]
    paths[1].write_text("\n".join([*lines, *table(results)]) + "\n")
    return paths


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    # A terminated run keeps what it has, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tasks = tasks_of(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = describe_machine()
    results, complete = run(
        tasks,
        options.kept,
        compile_apart,
        tell=lambda line: print(line, flush=True),
    )
    paths = write(options.output, machine, results, complete=complete)
    print("\n".join(table(results)))
    print("written:" if complete else "interrupted; written:", *paths)
    return 0 if complete else 130


if __name__ == "__main__":
    sys.exit(main())
