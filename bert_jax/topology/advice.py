"""What would make a step fit that does not: the smallest change of each sort.

Nothing is advised that was not compiled.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

from bert_jax.config import PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.candidates import Measured
from bert_jax.topology.choices import (
    Choice,
    MlmLogits,
    Remat,
    choice_of,
    meshes,
    micro_batch_counts,
)
from bert_jax.topology.predict import predict
from bert_jax.topology.search import Measure, describe, search


class Advice(NamedTuple):
    """One sort of change, and what the compiler says of the smallest that helps."""

    sort: str
    """Recompute, micro-batches, mesh; or all of them together."""
    changes: tuple[str, ...]
    """Fields of the phase's config, such as `model.remat=dots`; empty where no change of
    this sort was found to help."""
    measured: Measured | None
    """Of the changed step; `None` where none was found."""
    slower: float
    """Predicted time over that of the step that does not fit, less 1."""
    reason: str
    """Where nothing was found: what was tried."""

    def describe(self) -> str:
        """One line for people."""
        if self.measured is None:
            return f"{self.sort}: {self.reason}"
        more = f"{self.slower:+.0%} time" if abs(self.slower) >= 0.005 else "as fast"
        return (
            f"{self.sort}: {' '.join(self.changes)}  ({describe(self.measured)}; "
            f"predicted {more})"
        )


def advise(
    phase: PretrainConfig,
    *,
    num_devices: int,
    num_slices: int,
    chip: Chip,
    failed: Measured,
    measure: Measure,
    max_compiles: int = 3,
    tell: Callable[[str], None] = print,
) -> list[Advice]:
    """The smallest change of each sort with which a phase fits, each compiled.

    Args:
        phase: one of `PretrainConfig.phases`, which was compiled and does not fit.
        num_devices: of all slices.
        failed: what the compiler said of it.
        measure: compiles a phase.
        max_compiles: of each sort.
        tell: given lines of progress.

    Returns:
        One entry a sort: recompute, micro-batches, mesh. Where none of them helps, a
        last one that changes all together.
    """
    now = choice_of(phase, num_devices, num_slices)
    cost = predict(phase, now.mesh, chip).seconds

    def of_sort(sort: str, choices: list[Choice], vary: bool, compiles: int) -> Advice:
        if not choices:
            return Advice(sort, (), None, 0.0, "there is nothing left to change")
        found = search(
            phase,
            [now, *(choice for choice in choices if choice != now)],
            chip,
            failed.limit_bytes,
            measure,
            max_compiles=compiles,
            tell=tell,
            first_fit=True,
            vary_micro_batches=vary,
            failed=failed,
        )
        if found.best is None:
            tried = len(found.trials)
            reason = f"{tried} tried, none fits" if tried else "none is expected to fit"
            if not found.complete:
                reason += f", stopped after {compiles} compiles"
            return Advice(sort, (), None, 0.0, reason)
        chosen = found.best.choice
        laid_out = chosen.apply(phase)
        seconds = predict(laid_out, chosen.mesh, chip).seconds
        changes = tuple(now.changes(chosen))
        return Advice(sort, changes, found.best.phases[0], seconds / cost - 1.0, "")

    advice = [
        of_sort("recompute", list(_recomputing(now)), False, max_compiles),
        of_sort("micro-batches", _micro_batched(phase, now), True, max_compiles),
        of_sort(
            "mesh",
            [
                dataclasses.replace(now, mesh=mesh)
                for mesh in meshes(
                    phase, num_devices=num_devices, num_slices=num_slices
                )
                if phase.micro_batches in micro_batch_counts(phase, mesh)
            ],
            False,
            max_compiles,
        ),
    ]
    if all(one.measured is None for one in advice):
        everything = [
            dataclasses.replace(layout, mesh=mesh)
            for layout in (now, *_recomputing(now))
            for mesh in meshes(phase, num_devices=num_devices, num_slices=num_slices)
            if phase.micro_batches in micro_batch_counts(phase, mesh)
        ]
        advice.append(of_sort("together", everything, True, 2 * max_compiles))
    return advice


def _recomputing(now: Choice) -> Iterator[Choice]:
    """Choices that recompute more than `now`."""
    remats, logits = get_args(Remat), get_args(MlmLogits)
    for remat in remats[remats.index(now.remat) :]:
        for mlm_logits in logits[logits.index(now.mlm_logits) :]:
            choice = dataclasses.replace(now, remat=remat, mlm_logits=mlm_logits)
            if choice != now:
                yield choice


def _micro_batched(phase: PretrainConfig, now: Choice) -> list[Choice]:
    most = max(micro_batch_counts(phase, now.mesh), default=0)
    return [now] if most > phase.micro_batches else []
