"""What was compiled, for people and as JSON."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from bert_jax.topology.collectives import SLICE_AXIS
from bert_jax.topology.compiled import CompiledStep, MemoryByKind
from bert_jax.topology.estimate import Estimate
from bert_jax.topology.sharding_table import ShardedParameter

_GIB = 2**30
_MIB = 2**20


def show_step(
    step: CompiledStep,
    estimate: Estimate | None,
    table: Sequence[ShardedParameter],
    *,
    num_phases: int = 1,
    number: int = 0,
) -> list[str]:
    """Everything about one phase, in lines of aligned tables."""
    cfg = step.cfg
    axes = " ".join(f"{name}={size}" for name, size in step.mesh.items() if size > 1)
    rows = cfg.batch_size // _row_parts(step)
    micro = "" if cfg.micro_batches == 1 else f" in {cfg.micro_batches} micro-batches"
    phase = "" if num_phases == 1 else f"phase {number + 1} of {num_phases}: "
    lines = [
        f"{phase}{cfg.data.sequence_length} tokens, batch {cfg.batch_size:,} "
        f"({rows:,} rows a group{micro}), remat {cfg.model.remat}, "
        f"{cfg.model.compute_dtype}",
        f"{step.topology}: {step.topology.num_devices:,} devices, mesh "
        f"{axes or 'of one device'}; compiled in {step.compile_secs:.0f} s",
        "",
        *show_memory(step.memory, step.fits),
    ]
    if step.flops is not None:
        lines += ["", *_collectives(step)]
    if estimate is not None:
        lines += ["", *_estimate(step, estimate)]
    elif step.flops is not None:
        lines += [
            "",
            f"work of a device: {step.flops:.4g} FLOPs of matrix products, "
            f"{step.hbm_bytes:.4g} bytes of memory; no estimate: nothing is known of this "
            "machine's rates",
        ]
    return [*lines, "", *_table(table)]


def show_memory(memory: MemoryByKind, fits: bool) -> list[str]:
    """Memory by kind, and whether it fits."""
    kinds: list[tuple[str, int | None]] = [
        ("parameters", memory.parameters),
        ("optimizer", memory.optimizer),
        ("batch", memory.batch),
        ("activations and other temporaries", memory.temporaries),
        ("code", memory.code),
        ("padding of layouts, metrics", memory.padding),
    ]
    rows = [[name, _size(size)] for name, size in kinds if size is not None]
    rows.append(["total", _size(memory.total)])
    lines = _aligned([["memory of a device", ""], *rows], right=(1,))
    if memory.limit is None:
        return [*lines, "no limit is known"]
    share = memory.total / memory.limit
    if fits:
        verdict = (
            f"FITS: {share:.1%} of the {_size(memory.limit)} that a program may use"
        )
    else:
        verdict = (
            f"DOES NOT FIT: {_size(memory.total - memory.limit)} too much for the "
            f"{_size(memory.limit)} that a program may use"
        )
    return [*lines, verdict]


def as_json(
    step: CompiledStep, estimate: Estimate | None, table: Sequence[ShardedParameter]
) -> dict[str, Any]:
    """The same as a document; sizes in bytes, times in seconds, of one device."""
    memory = dataclasses.asdict(step.memory)
    return {
        "topology": str(step.topology),
        "num_devices": step.topology.num_devices,
        "mesh": dict(step.mesh),
        "sequence_length": step.cfg.data.sequence_length,
        "batch_size": step.cfg.batch_size,
        "micro_batches": step.cfg.micro_batches,
        "remat": step.cfg.model.remat,
        "fits": step.fits,
        "memory": {**memory, "padding": step.memory.padding},
        "collectives": [dataclasses.asdict(c) for c in step.collectives],
        "flops": step.flops,
        "hbm_bytes": step.hbm_bytes,
        "cycles": step.cycles,
        "uncounted": list(step.uncounted),
        "compile_secs": step.compile_secs,
        "estimate": None if estimate is None else dataclasses.asdict(estimate),
        "sharding": [dataclasses.asdict(row) for row in table],
    }


def _row_parts(step: CompiledStep) -> int:
    sharding = step.program.batch.input_ids.sharding
    whole = step.cfg.batch_size
    return whole // int(sharding.shard_shape((whole, 1))[0])


def _collectives(step: CompiledStep) -> list[str]:
    if not step.collectives:
        return ["no collectives: every device works alone"]
    header = ["collectives of a step", "along", "of", "type", "times", "array", "sent"]
    rows = [
        [
            c.kind,
            _axes(c.axes) + ("" if c.whole_axes else " (parts)"),
            f"{c.group_size}",
            c.dtype,
            f"{c.count:,}",
            _size(c.payload_bytes),
            _size(c.moved_bytes),
        ]
        for c in step.collectives
    ]
    lines = _aligned([header, *rows], right=(2, 4, 5, 6))
    total = sum(c.moved_bytes for c in step.collectives)
    lines.append(f"each device sends {_size(total)} a step")
    between = [c for c in step.collectives if SLICE_AXIS in c.axes]
    if between:
        lines.append(
            f"{sum(c.count for c in between):,} of them span slices, over the data-center "
            "network"
        )
    return lines


def _estimate(step: CompiledStep, estimate: Estimate) -> list[str]:
    useful = estimate.useful_flops / step.topology.num_devices
    rows = [
        ["matrix products", _secs(estimate.compute), f"{step.flops:.4g} FLOPs"],
        ["main memory", _secs(estimate.memory), f"{step.hbm_bytes:.4g} bytes"],
    ]
    if estimate.cycles is not None:
        cycles = f"{step.cycles:.4g} cycles"
        rows.append(["all operations, by the compiler", _secs(estimate.cycles), cycles])
    for link in estimate.links:
        between = (
            f", of it {_secs(link.network)} between slices" if link.network else ""
        )
        rows.append(
            [
                f"links along {_axes(link.axes)}",
                _secs(link.best),
                f"to {_secs(link.worst)}{between}",
            ]
        )
    return [
        *_aligned([["time of a step, estimated", "", ""], *rows], right=(1,)),
        f"step: {_secs(estimate.fastest)} to {_secs(estimate.slowest)}; "
        f"{_span(estimate.rows_per_sec)} rows/s, {_span(estimate.tokens_per_sec)} "
        "tokens/s of the whole machine",
        f"MFU {estimate.mfu[0]:.1%} to {estimate.mfu[1]:.1%}; recomputed or padded: "
        f"{step.flops / useful - 1:+.0%} over the useful FLOPs"  # type: ignore[operator]
        f" (HFU {estimate.hfu[0]:.1%} to {estimate.hfu[1]:.1%})",
        *(f"  - {line}" for line in estimate.assumptions),
    ]


def _table(table: Sequence[ShardedParameter]) -> list[str]:
    split_further = any(row.moments_mesh_axes != row.mesh_axes for row in table)
    header = ["parameter", "shape", "logical axes", "split over", "of a device"]
    header += ["moments over"] if split_further else []
    rows = []
    for row in table:
        line = [
            row.name,
            str(list(row.shape)),
            ", ".join(axis or "-" for axis in row.logical_axes),
            _split(row.mesh_axes),
            _size(row.bytes_per_device),
        ]
        if split_further:
            line.append(_split(row.moments_mesh_axes))
        rows.append([*line, _size(row.moments_bytes_per_device)])
    return _aligned([[*header, "moments"], *rows], right=(4, len(header)))


def _split(groups: Iterable[tuple[str, ...]]) -> str:
    cells = ["*".join(group) or "-" for group in groups]
    return "whole" if set(cells) <= {"-"} else ", ".join(cells)


def _axes(axes: Sequence[str]) -> str:
    return " * ".join(axes) or "itself"


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _size(num_bytes: int) -> str:
    if abs(num_bytes) >= _GIB // 10:
        return f"{num_bytes / _GIB:,.2f} GiB"
    if abs(num_bytes) >= _MIB // 10:
        return f"{num_bytes / _MIB:,.2f} MiB"
    return f"{num_bytes / 1024:,.1f} KiB"


def _secs(secs: float) -> str:
    return f"{secs * 1e3:,.2f} ms"


def _span(values: tuple[float, float]) -> str:
    return f"{values[0]:,.0f} to {values[1]:,.0f}"
