"""The fastest way to lay a run out that fits, with few compiles.

Every choice is predicted from shapes. The best predicted one that should fit is
compiled; what the compiler reports corrects the prediction of memory for all choices of
its kind (remat, attention, logits), and of time for all. It ends when every choice left
that should fit is predicted to be 5 % slower than the best one compiled, even at the most
favourable ratio of compiled to predicted time that was seen. More recomputation or more
micro-batches than what fits are not tried. Where nothing should fit, the choice that
needs least is compiled before that is said.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bert_jax.config import PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.candidates import Candidates, Measured
from bert_jax.topology.choices import Choice

# How far the predicted times of two layouts may be off from each other.
_MARGIN = 0.05


Measure = Callable[[PretrainConfig], Measured]


class Trial(NamedTuple):
    """A choice that was compiled."""

    choice: Choice
    phases: tuple[Measured, ...]
    """Those that were compiled, the one that needs most memory first among them."""
    fits: bool
    seconds: float
    """Estimate of the whole run's steps; infinite where a phase does not fit."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: Trial | None
    """`None`: nothing that was compiled fits."""
    trials: tuple[Trial, ...]
    complete: bool
    """Whether it ended by its rule and not at `max_compiles`."""
    num_choices: int


def search(
    cfg: PretrainConfig,
    choices: Iterable[Choice],
    chip: Chip,
    limit_bytes: int,
    measure: Measure,
    *,
    max_compiles: int,
    tell: Callable[[str], None] = print,
    first_fit: bool = False,
    vary_micro_batches: bool = True,
    failed: Measured | None = None,
) -> Found:
    """Compiles choices of a run, the most promising first.

    Args:
        cfg: all phases of the run.
        choices: layouts, each with the fewest micro-batches to try.
        limit_bytes: what the programs of a chip may take.
        measure: compiles a phase; a ValueError says that it cannot be laid out so.
        max_compiles: of phases, those that `measure` remembers counted too.
        tell: given a line before and one after each compile.
        first_fit: whether to end with the first choice that fits.
        vary_micro_batches: whether more micro-batches than a choice has are tried.
        failed: what `cfg`, of one phase and among the choices, was found to need.
    """
    candidates = Candidates(cfg, choices, chip, limit_bytes, vary_micro_batches)
    if failed is not None:
        candidates.learn(candidates.at_least(), 0, failed)
    trials: list[Trial] = []
    best: Trial | None = None
    compiles = 0
    while True:
        picked = candidates.pick()
        if picked is None and best is None:
            picked = candidates.pick_smallest()
        if picked is None or (
            best is not None
            and (
                first_fit
                or picked.seconds * candidates.best_ratio
                >= (1 + _MARGIN) * best.seconds
            )
        ):
            return Found(best, tuple(trials), True, candidates.num_choices)
        measured: dict[int, Measured] = {}
        # The phase that needs most memory first: it decides whether the others matter.
        for number in sorted(
            range(len(picked.options)),
            key=lambda n: -picked.options[n].predicted.total_bytes,
        ):
            if compiles >= max_compiles:
                return Found(best, tuple(trials), False, candidates.num_choices)
            compiles += 1
            where = f"phase {number + 1}: " if len(cfg.phases) > 1 else ""
            tell(f"[{compiles}] {where}{picked.choice.describe()}")
            try:
                result = measure(picked.choice.apply(cfg).phases[number])
            except ValueError as error:
                tell(f"    cannot be laid out so: {error}")
                result = Measured(None, limit_bytes, False, None)
                candidates.exclude(picked, number, result)
            else:
                tell(f"    {describe(result)}")
                candidates.learn(picked, number, result)
            measured[number] = result
            if not result.fits:
                break
        trial = _trial(cfg, picked.choice, measured)
        trials.append(trial)
        if trial.fits:
            candidates.fitted(picked, trial.seconds)
        if trial.fits and (best is None or trial.seconds < best.seconds):
            best = trial


def describe(result: Measured) -> str:
    """Memory and time of a compiled phase, for people."""
    limit = f"{result.limit_bytes / 2**30:.2f} GiB"
    if result.bytes is None:
        needed = f"more than the {limit} of a chip"
    else:
        needed = f"{result.bytes / 2**30:.2f} of {limit} a chip"
    if not result.fits:
        return f"does not fit: {needed}"
    if result.seconds is None:
        return f"fits: {needed}"
    return f"fits: {needed}, {result.seconds * 1e3:.1f} ms a step (estimate)"


def _trial(cfg: PretrainConfig, choice: Choice, measured: dict[int, Measured]) -> Trial:
    fits = len(measured) == len(cfg.phases) and all(m.fits for m in measured.values())
    seconds = math.inf
    if fits:
        seconds = sum(
            phase.num_steps * (measured[number].seconds or 0.0)
            for number, phase in enumerate(cfg.phases)
        )
    return Trial(choice, tuple(measured[n] for n in sorted(measured)), fits, seconds)
