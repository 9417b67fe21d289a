"""Compiled steps as aligned tables for people, and as a JSON document."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from bert_jax.topology.compiled import CompiledStep
from bert_jax.topology.roofline import Roof, Roofline, roofline_of
from bert_jax.topology.sharding_table import ShardedParameter
from bert_jax.train.aligned import aligned

_GIB = 2**30
_MIB = 2**20
_VARIANT_ROW = "{:<5}  {:<9}  {:<13}  {:<4}  {:>10}  {:>11}  {:>11}  {}"


def show_step(step: CompiledStep, *, number: int = 1, num_phases: int = 1) -> list[str]:
    """Everything about one phase but the placement of parameters, in lines.

    Args:
        number: which phase this is, counted from 1.
    """
    cfg = step.cfg
    axes = " ".join(f"{name}={size}" for name, size in step.mesh.items() if size > 1)
    micro = "" if cfg.micro_batches == 1 else f" in {cfg.micro_batches} micro-batches"
    phase = "" if num_phases == 1 else f"phase {number} of {num_phases}: "
    return [
        f"{phase}{cfg.data.sequence_length} tokens, batch of {cfg.batch_size:,} rows"
        f"{micro}, remat {cfg.compute.remat}, {cfg.compute.dtype}",
        f"{step.topology}: {step.topology.num_devices:,} devices, mesh "
        f"{axes or 'of one device'}; compiled in {step.compile_secs:.0f} s",
        "",
        *_memory(step),
        *(["", *_collectives(step), "", *_work(step)] if step.fits else []),
    ]


def show_variants_header() -> str:
    """The headings of the rows that `show_variant` gives."""
    return _VARIANT_ROW.format(
        *("phase", "remat", "micro-batches", "fits"),
        *("memory", "temporaries", "at least", "bound by"),
    )


def show_variant(step: CompiledStep, *, number: int = 1) -> str:
    """One phase of one variant as a row of the table of variants."""
    roofline = roofline_of(step)
    temporaries = step.memory.temporaries
    return _VARIANT_ROW.format(
        number,
        step.cfg.compute.remat,
        step.cfg.micro_batches,
        "yes" if step.fits else "NO",
        _size(step.memory.total),
        "-" if temporaries is None else _size(temporaries),
        "-" if roofline is None else _secs(roofline.secs),
        "-" if roofline is None else roofline.bound_by,
    )


def show_variants_notes(steps: Sequence[CompiledStep]) -> list[str]:
    """What the columns of the table of variants mean."""
    limit = steps[0].memory.limit
    usable = "" if limit is None else f"; a program may use {_size(limit)}"
    lines = [f"memory, temporaries: bytes of one device{usable}."]
    rooflines = (roofline_of(step) for step in steps)
    roofline = next((found for found in rooflines if found is not None), None)
    if roofline is None:
        return lines
    return [
        *lines,
        "at least: the least time of a step, by its roofline.",
        *_assumptions(roofline),
    ]


def show_sharding(table: Sequence[ShardedParameter]) -> list[str]:
    """Where every parameter and its moments live, one line each."""
    split_further = any(row.moments_mesh_axes != row.mesh_axes for row in table)
    header = ["parameter", "shape", "logical axes", "split over", "on a device"]
    header += ["moments split over"] if split_further else []
    rows = [
        [
            row.name,
            str(list(row.shape)),
            ", ".join(axis or "-" for axis in row.logical_axes),
            _split(row.mesh_axes),
            _size(row.bytes_per_device),
            *([_split(row.moments_mesh_axes)] if split_further else []),
            _size(row.moments_bytes_per_device),
        ]
        for row in table
    ]
    return aligned([[*header, "moments"], *rows], right=(4, len(header)))


def as_json(
    steps: Iterable[tuple[int, CompiledStep]], table: Sequence[ShardedParameter]
) -> dict[str, Any]:
    """What was compiled as a document: sizes in bytes and times in seconds of one device.

    Args:
        steps: every compiled step with the number of its phase, counted from 1.
        table: the placement of the parameters, which is the same for all of them.
    """
    return {
        "steps": [_step_as_json(number, step) for number, step in steps],
        "sharding": [dataclasses.asdict(row) for row in table],
    }


def _step_as_json(number: int, step: CompiledStep) -> dict[str, Any]:
    roofline = roofline_of(step)
    memory = dataclasses.asdict(step.memory)
    return {
        "phase": number,
        "topology": str(step.topology),
        "num_devices": step.topology.num_devices,
        "mesh": dict(step.mesh),
        "sequence_length": step.cfg.data.sequence_length,
        "batch_size": step.cfg.batch_size,
        "micro_batches": step.cfg.micro_batches,
        "remat": step.cfg.compute.remat,
        "fits": step.fits,
        "memory": {**memory, "padding": step.memory.padding},
        "collectives": [dataclasses.asdict(c) for c in step.collectives],
        "flops": step.flops,
        "hbm_bytes": step.hbm_bytes,
        "uncounted": list(step.uncounted),
        "compile_secs": round(step.compile_secs, 2),
        "roofline": None if roofline is None else dataclasses.asdict(roofline),
    }


def _memory(step: CompiledStep) -> list[str]:
    memory = step.memory
    kinds = {
        "parameters": memory.parameters,
        "optimizer": memory.optimizer,
        "batch": memory.batch,
        "activations and other temporaries": memory.temporaries,
        "code": memory.code,
        "padding of layouts, metrics": memory.padding,
        "total": memory.total,
    }
    rows = [[name, _size(size)] for name, size in kinds.items() if size is not None]
    lines = aligned([["memory of a device", ""], *rows], right=(1,))
    if memory.limit is None:
        verdict = "The memory limit of this machine is not known."
    elif step.fits:
        verdict = (
            f"FITS: {memory.total / memory.limit:.1%} of the {_size(memory.limit)} that a "
            "program may use."
        )
    else:
        verdict = (
            f"DOES NOT FIT: {_size(memory.total - memory.limit)} more than the "
            f"{_size(memory.limit)} that a program may use. Add --try-remat or "
            "--try-micro-batches with several values to see what fits."
        )
    return [*lines, verdict]


def _collectives(step: CompiledStep) -> list[str]:
    if not step.collectives:
        return ["No collectives: every device works alone."]
    header = ["collectives of a step", "along", "of", "type", "times", "array", "sent"]
    rows = [
        [
            c.kind,
            (" * ".join(c.axes) or "itself") + ("" if c.whole_axes else " (parts)"),
            f"{c.group_size}",
            c.dtype,
            f"{c.count:,}",
            _size(c.payload_bytes),
            _size(c.moved_bytes),
        ]
        for c in step.collectives
    ]
    total = sum(c.moved_bytes for c in step.collectives)
    return [
        *aligned([header, *rows], right=(2, 4, 5, 6)),
        f"Each device sends {_size(total)} in a step.",
    ]


def _work(step: CompiledStep) -> list[str]:
    assert step.flops is not None
    roofline = roofline_of(step)
    if roofline is None:
        return [
            f"One device computes {step.flops:.4g} FLOPs of matrix products and moves "
            f"{step.hbm_bytes:.4g} bytes of main memory in a step.",
            "There is no roofline, because the rates of this machine are not known.",
        ]
    computed = step.flops * step.topology.num_devices / roofline.useful_flops
    rows = [
        [roof.name, _secs(roof.secs), _quotient(roof)]
        for roof in roofline.roofs
        if roof.amount
    ]
    return [
        *aligned([["least time of a step (roofline)", "", ""], *rows], right=(1,)),
        f"A step takes at least {_secs(roofline.secs)}, bound by {roofline.bound_by}: at "
        f"most {roofline.rows_per_sec:,.0f} rows/s and {roofline.tokens_per_sec:,.0f} "
        f"tokens/s of the whole machine, MFU at most {roofline.mfu:.1%}.",
        f"The program computes {computed:.2f} times the useful FLOPs.",
        *_assumptions(roofline),
    ]


def _assumptions(roofline: Roofline) -> list[str]:
    return [f"  - {line}" for line in roofline.assumptions]


def _quotient(roof: Roof) -> str:
    if roof.name == "matrix products":
        return f"{roof.amount:.4g} FLOPs at {roof.rate / 1e12:,.0f} TFLOP/s"
    return f"{roof.amount:.4g} bytes at {roof.rate / 1e9:,.4g} GB/s"


def _split(groups: Iterable[tuple[str, ...]]) -> str:
    cells = ["*".join(group) or "-" for group in groups]
    return "whole" if set(cells) <= {"-"} else ", ".join(cells)


def _size(num_bytes: int) -> str:
    if abs(num_bytes) >= _GIB // 10:
        return f"{num_bytes / _GIB:,.2f} GiB"
    if abs(num_bytes) >= _MIB // 10:
        return f"{num_bytes / _MIB:,.2f} MiB"
    return f"{num_bytes / 1024:,.1f} KiB"


def _secs(secs: float) -> str:
    return f"{secs * 1e3:,.2f} ms"
