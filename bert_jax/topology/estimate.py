"""How long a compiled step takes: what cannot be beaten, and what to reckon with.

Nothing is measured here. Every figure follows from the program and from the nominal
rates of the chips; `Estimate.assumptions` says how.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from bert_jax.config import PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.collectives import SLICE_AXIS, Collective, ring_bytes
from bert_jax.topology.compiled import CompiledStep
from bert_jax.topology.devices import devices_of
from bert_jax.train.flops import Work, train_flops
from bert_jax.train.mesh import make_mesh

# FLOPs a cycle that libtpu 0.0.52 reckons with for one bfloat16 product of 8,192 by
# 8,192 by 8,192: its cycles become seconds as if that product ran at the chip's peak.
_FLOPS_A_CYCLE = {"v4": 243_057, "v5e": 115_044, "v5p": 236_349, "v6e": 369_231}


@dataclasses.dataclass(frozen=True)
class LinkTime:
    """Seconds that one step's collectives along some axes keep the links busy."""

    axes: tuple[str, ...]
    best: float
    """All links along these axes, in both directions where they close to a ring."""
    worst: float
    """One link in one direction."""
    network: float
    """Of `worst`, on the network between slices; it is part of `best` too."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step, and what follows; rates are of the whole machine."""

    compute: float
    """Matrix products at the chips' peak."""
    memory: float
    """Main memory at its nominal rate."""
    cycles: float | None
    """The compiler's cycles of everything but collectives; `None`: it gave none."""
    links: tuple[LinkTime, ...]
    fastest: float
    """Arithmetic, memory and every axis' links all overlap, each at its nominal rate."""
    slowest: float
    """The compiler's cycles, and then every collective, one after the other."""
    useful_flops: float
    """Of the whole machine, without recomputation (`train.flops`)."""
    rows_per_sec: tuple[float, float]
    """At `slowest` and at `fastest`; so are the following."""
    tokens_per_sec: tuple[float, float]
    """Places of rows, padding included."""
    mfu: tuple[float, float]
    hfu: tuple[float, float]
    """As MFU, with what the program really computes: recomputation, padding."""
    assumptions: tuple[str, ...]


def estimate(step: CompiledStep) -> Estimate | None:
    """Derives times of a compiled step; `None` where it does not fit, or of a CPU.

    Source: the roofline model, Williams et al. 2009, with links as a third roof.
    """
    chip = step.topology.chip
    if chip is None or step.flops is None or step.hbm_bytes is None:
        return None
    compute = step.flops / chip.device_peak_flops
    memory = step.hbm_bytes / (chip.hbm_bytes_per_sec / chip.devices_per_chip)
    per_cycle = _FLOPS_A_CYCLE.get(chip.name)
    cycles = None
    if step.cycles is not None and per_cycle is not None:
        cycles = step.cycles * per_cycle / chip.device_peak_flops
    links = link_times(step, chip)
    fastest = max(compute, memory, *(link.best for link in links), 0.0)
    busy = compute + memory if cycles is None else max(cycles, compute, memory)
    slowest = busy + sum(link.worst for link in links)
    cfg = step.cfg
    useful = useful_flops(cfg)
    peak = chip.device_peak_flops * step.topology.num_devices
    done = step.flops * step.topology.num_devices
    rows = cfg.batch_size

    def rates(amount: float) -> tuple[float, float]:
        return amount / slowest, amount / fastest

    return Estimate(
        compute=compute,
        memory=memory,
        cycles=cycles,
        links=links,
        fastest=fastest,
        slowest=slowest,
        useful_flops=useful,
        rows_per_sec=rates(rows),
        tokens_per_sec=rates(rows * cfg.data.sequence_length),
        mfu=rates(useful / peak),
        hfu=rates(done / peak),
        assumptions=_assumptions(step, chip, cycles is not None),
    )


def useful_flops(cfg: PretrainConfig) -> float:
    """Of one batch whose rows each hold one sequence without padding."""
    rows, length = cfg.batch_size, cfg.data.sequence_length
    work = Work(
        tokens=rows * length,
        attention_pairs=rows * length * length,
        sequences=rows,
        masked_slots=rows * cfg.masking.num_slots(length),
    )
    return train_flops(cfg.model, work)


def link_times(step: CompiledStep, chip: Chip) -> tuple[LinkTime, ...]:
    """Times of the collectives, those along the same axes together."""
    mesh_cfg = step.cfg.mesh
    if mesh_cfg.slices is None:
        mesh_cfg = dataclasses.replace(mesh_cfg, slices=step.topology.slices)
    mesh = make_mesh(mesh_cfg, devices_of(step.topology))
    times: dict[tuple[str, ...], list[float]] = {}
    for collective in step.collectives:
        if not collective.axes:
            continue
        inside, between = _shares(collective, step.mesh)
        width = links_along(collective.axes, mesh, step.topology.shape, chip)
        best = inside / (max(width, 1) * chip.link_bytes_per_sec)
        worst = inside / chip.link_bytes_per_sec
        network = between / chip.network_bytes_per_sec
        total = times.setdefault(collective.axes, [0.0, 0.0, 0.0])
        for n, value in enumerate((best + network, worst + network, network)):
            total[n] += value
    return tuple(LinkTime(axes, *total) for axes, total in times.items())


def links_along(
    axes: Sequence[str], mesh: jax.sharding.Mesh, shape: tuple[int, ...], chip: Chip
) -> int:
    """How many directed links of a chip serve the groups along `axes` of a slice.

    Two for each side of the slice that a group runs along and that closes to a ring, one
    for each that ends.
    """
    inside = [n for n, name in enumerate(mesh.axis_names) if name in axes]
    index = tuple(
        slice(None) if n in inside and mesh.axis_names[n] != SLICE_AXIS else 0
        for n in range(mesh.devices.ndim)
    )
    group = np.atleast_1d(mesh.devices[index]).flatten()
    coords = np.array([device.coords[: len(shape)] for device in group])
    width = 0
    for side, length in enumerate(shape):
        if len(set(coords[:, side])) == 1:
            continue
        ring = chip.ring_multiple is not None and length % chip.ring_multiple == 0
        width += 2 if ring and len(set(coords[:, side])) == length else 1
    return width


def _shares(collective: Collective, mesh: Mapping[str, int]) -> tuple[float, float]:
    """Bytes a device sends inside its slice, and between slices.

    One that spans both goes in two steps, the second with each device's part.
    """
    if SLICE_AXIS not in collective.axes:
        return float(collective.moved_bytes), 0.0
    slices = mesh[SLICE_AXIS]
    inside = max(collective.group_size // slices, 1)
    payload = collective.payload_bytes
    return (
        ring_bytes(collective.kind, payload, inside),
        ring_bytes(collective.kind, payload / inside, slices),
    )


def _assumptions(step: CompiledStep, chip: Chip, cycles: bool) -> tuple[str, ...]:
    lines = [
        f"{chip.name}: {chip.device_peak_flops / 1e12:,.0f} TFLOP/s in bfloat16, "
        f"{chip.hbm_bytes_per_sec / 1e9:,.0f} GB/s of main memory, "
        f"{chip.link_bytes_per_sec / 1e9:,.0f} GB/s a link and direction, "
        f"{chip.network_bytes_per_sec / 1e9:,.3g} GB/s between slices ({chip.source})",
        "fastest: arithmetic, memory and links overlap wholly, each at its nominal rate; "
        "no step can be faster",
    ]
    if cycles:
        lines.append(
            "slowest: the compiler's cycles of all operations, as if one large product "
            "ran at the chip's peak, then all collectives, on one link in one direction, "
            "nothing overlapped"
        )
    else:
        lines.append(
            "slowest: arithmetic, memory and collectives one after the other, at their "
            "nominal rates"
        )
    lines.append(
        "collectives: rings; n devices send (n-1)/n of the array in a gather or scatter, "
        "twice that in an all-reduce"
    )
    if step.topology.slices > 1:
        lines.append(
            "between slices: a ring of slices, in which each chip sends its part over its "
            "share of the host's network"
        )
    lines.append(
        "useful FLOPs: every row one sequence without padding; rates count rows and their "
        "places, padding included"
    )
    lines.append("not in it: input, evaluation, checkpoints, start-up of kernels")
    if step.uncounted:
        lines.append(
            "not counted: kernels that state no cost, and of loops of unknown length all "
            f"rounds but one: {', '.join(step.uncounted)}"
        )
    return tuple(lines)
