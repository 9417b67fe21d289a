"""The least time that a compiled step can take, from nominal rates of the chips.

Nothing is measured and nothing is fitted: every time is work divided by a rate.

Source: the roofline model, Williams et al. 2009, with the links as further roofs.
"""

import dataclasses

from bert_jax.config import PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.collectives import SLICE_AXIS
from bert_jax.topology.compiled import CompiledStep
from bert_jax.train.flops import Work, pairs_in_window, train_flops

_ALWAYS = (
    "Matrix products, memory, links and network all work at the same time at these nominal "
    "rates. A real step takes longer; how much longer is not known.",
    "In a collective over n devices each device sends (n-1)/n of the array for a gather or "
    "scatter, and twice that for an all-reduce. All links of a chip send at once.",
    "Useful FLOPs: every row is one sequence without padding, and nothing is recomputed. "
    "Rows and tokens per second count padding too.",
    "Not included: loading batches, evaluation, checkpoints.",
)


@dataclasses.dataclass(frozen=True)
class Roof:
    """The least seconds of one step for one kind of work of a device."""

    name: str
    secs: float
    amount: float
    """FLOPs or bytes of one device in one step."""
    rate: float
    """Nominal FLOPs or bytes per second of one device."""


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time of a step, and the best rates that follow for the whole machine."""

    roofs: tuple[Roof, ...]
    secs: float
    """The longest of the roofs: no step can be faster."""
    bound_by: str
    """The name of that roof."""
    rows_per_sec: float
    tokens_per_sec: float
    useful_flops: float
    """FLOPs of one batch that training needs, however it is done (`train.flops`)."""
    mfu: float
    """Useful FLOPs per second as a share of the peak of all chips."""
    assumptions: tuple[str, ...]


def roofline_of(step: CompiledStep) -> Roofline | None:
    """Works out the roofline of a compiled step.

    Returns:
        `None` where the step does not fit the memory, or where the rates of the machine are
        not known, as those of a CPU.
    """
    chip = step.topology.chip
    if chip is None or step.flops is None or step.hbm_bytes is None:
        return None
    between = sum(c.moved_bytes for c in step.collectives if SLICE_AXIS in c.axes)
    inside = sum(c.moved_bytes for c in step.collectives) - between
    work = {
        "matrix products": (step.flops, chip.peak_flops),
        "main memory": (step.hbm_bytes, chip.hbm_bytes_per_sec),
        "links in a slice": (inside, chip.links_bytes_per_sec),
        "network between slices": (between, chip.network_bytes_per_sec),
    }
    roofs = tuple(
        Roof(name, amount / rate, amount, rate) for name, (amount, rate) in work.items()
    )
    longest = max(roofs, key=lambda roof: roof.secs)
    useful = useful_flops(step.cfg)
    rows = step.cfg.batch_size
    return Roofline(
        roofs=roofs,
        secs=longest.secs,
        bound_by=longest.name,
        rows_per_sec=rows / longest.secs,
        tokens_per_sec=rows * step.cfg.data.sequence_length / longest.secs,
        useful_flops=useful,
        mfu=useful / (longest.secs * chip.peak_flops * step.topology.num_devices),
        assumptions=_assumptions(step, chip),
    )


def useful_flops(cfg: PretrainConfig) -> float:
    """The FLOPs that training needs for one batch of sequences that fill their rows.

    Where the masking rate changes over the run, it is an update at the highest rate.
    """
    rows, length = cfg.batch_size, cfg.data.sequence_length
    reach = min(cfg.model.local_reach or 0, length)
    work = Work(
        tokens=rows * length,
        attention_pairs=rows * length * length,
        local_pairs=rows * pairs_in_window(length, reach),
        sequences=rows,
        masked_slots=rows * cfg.masking.num_slots(length),
    )
    return train_flops(cfg.model, work)


def _assumptions(step: CompiledStep, chip: Chip) -> tuple[str, ...]:
    lines = [
        f"{chip.name}: {chip.peak_flops / 1e12:,.0f} TFLOP/s in bfloat16, "
        f"{chip.hbm_bytes_per_sec / 1e9:,.0f} GB/s of main memory, {chip.num_links} links "
        f"of {chip.link_bytes_per_sec / 1e9:,.0f} GB/s in each direction, "
        f"{chip.network_bytes_per_sec / 1e9:,.3g} GB/s between slices. "
        f"Source: {chip.source}.",
        *_ALWAYS,
    ]
    if step.uncounted:
        lines.append(
            "Not counted: kernels that state no cost, and all rounds but one of loops "
            f"whose number of rounds is unknown: {', '.join(step.uncounted)}."
        )
    return tuple(lines)
