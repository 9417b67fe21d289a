"""The fastest way to lay a run out that fits, with few compiles.

Every choice is predicted from shapes. The best predicted one that should fit is
compiled; what the compiler reports corrects the prediction of memory for all choices of
its kind (remat, attention, logits), and of time for all. It ends when no choice that
should fit is predicted to be faster than the best one compiled, even at the most
favourable ratio of compiled to predicted time that was seen.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from bert_jax.config import MeshConfig, PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.choices import Choice, micro_batch_counts
from bert_jax.topology.predict import Prediction, predict


class Measured(NamedTuple):
    """What the compiler says of one phase."""

    bytes: int | None
    """Most memory that a chip needs at once; `None` where the compiler did not say."""
    limit_bytes: int
    """What a chip has."""
    fits: bool
    seconds: float | None
    """Estimate of a step; `None` for a program that does not fit."""


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


class _Option(NamedTuple):
    """A number of micro-batches of one phase."""

    micro_batches: int
    predicted: Prediction


class _Picked(NamedTuple):
    choice: Choice
    options: tuple[_Option, ...]
    """One a phase."""
    seconds: float
    """Predicted, of all steps of the run."""


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
    finder = _Finder(cfg, choices, chip, limit_bytes, vary_micro_batches)
    if failed is not None:
        finder.learn(finder.at_least(), 0, failed)
    trials: list[Trial] = []
    best: Trial | None = None
    compiles = 0
    while True:
        picked = finder.pick()
        if picked is None or (
            best is not None
            and (first_fit or picked.seconds * finder.best_ratio >= best.seconds)
        ):
            return Found(best, tuple(trials), True, finder.num_choices)
        measured: dict[int, Measured] = {}
        # The phase that needs most memory first: it decides whether the others matter.
        for number in sorted(
            range(len(picked.options)),
            key=lambda n: -picked.options[n].predicted.total_bytes,
        ):
            if compiles >= max_compiles:
                return Found(best, tuple(trials), False, finder.num_choices)
            compiles += 1
            where = f"phase {number + 1}: " if len(cfg.phases) > 1 else ""
            tell(f"[{compiles}] {where}{picked.choice.describe()}")
            try:
                result = measure(picked.choice.apply(cfg).phases[number])
            except ValueError as error:
                tell(f"    cannot be laid out so: {error}")
                result = Measured(None, limit_bytes, False, None)
                finder.exclude(picked, number, result)
            else:
                tell(f"    {describe(result)}")
                finder.learn(picked, number, result)
            measured[number] = result
            if not result.fits:
                break
        trial = _trial(cfg, picked.choice, measured)
        trials.append(trial)
        finder.done(trial, picked)
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


class _Finder:
    """Keeps the predictions, and what compiles have taught about them."""

    def __init__(
        self,
        cfg: PretrainConfig,
        choices: Iterable[Choice],
        chip: Chip,
        limit_bytes: int,
        vary: bool,
    ) -> None:
        self._steps = [phase.num_steps for phase in cfg.phases]
        self._limit = limit_bytes
        self._options = {
            choice: tuple(_options(cfg, choice, chip, vary)) for choice in choices
        }
        self._factors: dict[tuple[str, str, str], float] = {}
        self._last_factor = 1.0
        self._ratios: list[float] = []
        self._fits: dict[tuple[_Layout, int, int], bool] = {}
        self._done: set[Choice] = set()

    @property
    def num_choices(self) -> int:
        """Layouts times the micro-batches of every phase."""
        return sum(
            math.prod(len(options) for options in phases)
            for phases in self._options.values()
        )

    @property
    def best_ratio(self) -> float:
        """The least that a compiled time was of the predicted one."""
        return min(self._ratios, default=1.0)

    def at_least(self) -> _Picked:
        """The first choice, as it was given."""
        choice, phases = next(iter(self._options.items()))
        options = tuple(options[0] for options in phases)
        return _Picked(choice, options, self._seconds(options))

    def pick(self) -> _Picked | None:
        """The choice of least predicted time that should fit and was not compiled."""
        best: _Picked | None = None
        for choice, phases in self._options.items():
            options = []
            for number, candidates in enumerate(phases):
                fitting = [o for o in candidates if self._should_fit(choice, number, o)]
                if not fitting:
                    break
                options.append(min(fitting, key=lambda o: o.predicted.seconds))
            if len(options) < len(phases):
                continue
            seconds = self._seconds(options)
            if best is None or seconds < best.seconds:
                counts = tuple(option.micro_batches for option in options)
                picked = dataclasses.replace(choice, micro_batches=counts)
                # Once compiled, other micro-batches of a layout would only be slower.
                if picked not in self._done:
                    best = _Picked(picked, tuple(options), seconds)
        return best

    def learn(self, picked: _Picked, number: int, result: Measured) -> None:
        """Corrects the prediction of memory by a compiled phase."""
        self.exclude(picked, number, result)
        predicted = picked.options[number].predicted
        needed = result.bytes
        if needed is None:
            if result.fits:
                return
            # All that is known: it is more than there is.
            expected = self._expected(picked.choice, predicted)
            needed = int(1.05 * max(self._limit, expected))
        factor = max(needed - predicted.state_bytes, 0.0) / predicted.activation_bytes
        self._factors[_kind(picked.choice)] = self._last_factor = factor

    def exclude(self, picked: _Picked, number: int, result: Measured) -> None:
        """Remembers whether a phase fits; predictions stay as they are."""
        count = picked.options[number].micro_batches
        self._fits[_layout(picked.choice), number, count] = result.fits

    def done(self, trial: Trial, picked: _Picked) -> None:
        self._done.add(trial.choice)
        if trial.fits:
            self._ratios.append(trial.seconds / picked.seconds)

    def _should_fit(self, choice: Choice, number: int, option: _Option) -> bool:
        known = self._fits.get((_layout(choice), number, option.micro_batches))
        if known is not None:
            return known
        return self._expected(choice, option.predicted) <= self._limit

    def _expected(self, choice: Choice, predicted: Prediction) -> float:
        factor = self._factors.get(_kind(choice), self._last_factor)
        return predicted.state_bytes + factor * predicted.activation_bytes

    def _seconds(self, options: Sequence[_Option]) -> float:
        return sum(
            steps * option.predicted.seconds
            for steps, option in zip(self._steps, options, strict=True)
        )


_Layout = tuple[MeshConfig, str, str, str]


def _kind(choice: Choice) -> tuple[str, str, str]:
    return choice.remat, choice.attention, choice.mlm_logits


def _layout(choice: Choice) -> _Layout:
    return choice.mesh, *_kind(choice)


def _options(
    cfg: PretrainConfig, choice: Choice, chip: Chip, vary: bool
) -> Iterator[list[_Option]]:
    """Of every phase, the numbers of micro-batches that may be tried."""
    for phase in choice.apply(cfg).phases:
        least = phase.micro_batches
        counts = micro_batch_counts(phase, choice.mesh) if vary else (least,)
        yield [
            _Option(
                count,
                predict(
                    dataclasses.replace(phase, micro_batches=count), choice.mesh, chip
                ),
            )
            for count in counts
            if count >= least
        ]


def _trial(cfg: PretrainConfig, choice: Choice, measured: dict[int, Measured]) -> Trial:
    fits = len(measured) == len(cfg.phases) and all(m.fits for m in measured.values())
    seconds = math.inf
    if fits:
        seconds = sum(
            phase.num_steps * (measured[number].seconds or 0.0)
            for number, phase in enumerate(cfg.phases)
        )
    return Trial(choice, tuple(measured[n] for n in sorted(measured)), fits, seconds)
