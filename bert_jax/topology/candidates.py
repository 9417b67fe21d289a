"""Layouts with their predicted memory and time, corrected by what was compiled."""

import dataclasses
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, get_args

from bert_jax.config import MeshConfig, PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.choices import Choice, MlmLogits, Remat, micro_batch_counts
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


class Option(NamedTuple):
    """A number of micro-batches of one phase."""

    micro_batches: int
    predicted: Prediction


class Picked(NamedTuple):
    choice: Choice
    options: tuple[Option, ...]
    """One a phase."""
    seconds: float
    """Predicted, of all steps of the run."""


class Candidates:
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
        self._fitted: list[Choice] = []

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

    def at_least(self) -> Picked:
        """The first choice, as it was given."""
        choice, phases = next(iter(self._options.items()))
        options = tuple(options[0] for options in phases)
        return Picked(choice, options, self._seconds(options))

    def pick(self) -> Picked | None:
        """The choice of least predicted time that should fit and was not compiled."""
        best: Picked | None = None
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
                if not any(_costs_more(picked, done) for done in self._fitted):
                    best = Picked(picked, tuple(options), seconds)
        return best

    def pick_smallest(self) -> Picked | None:
        """The choice expected to need least memory; `None` if it was compiled."""
        smallest: Picked | None = None
        least = math.inf
        for choice, phases in self._options.items():
            options = [
                min(candidates, key=lambda o: o.predicted.total_bytes)
                for candidates in phases
            ]
            needed = max(self._expected(choice, o.predicted) for o in options)
            if needed < least:
                least = needed
                counts = tuple(option.micro_batches for option in options)
                picked = dataclasses.replace(choice, micro_batches=counts)
                smallest = Picked(picked, tuple(options), self._seconds(options))
        if smallest is None or any(
            self._fits.get((_layout(smallest.choice), number, o.micro_batches)) is False
            for number, o in enumerate(smallest.options)
        ):
            return None
        return smallest

    def learn(self, picked: Picked, number: int, result: Measured) -> None:
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

    def exclude(self, picked: Picked, number: int, result: Measured) -> None:
        """Remembers whether a phase fits; predictions stay as they are."""
        count = picked.options[number].micro_batches
        self._fits[_layout(picked.choice), number, count] = result.fits

    def fitted(self, picked: Picked, seconds: float) -> None:
        """Corrects the prediction of time by a choice whose phases all fit."""
        self._fitted.append(picked.choice)
        self._ratios.append(seconds / picked.seconds)

    def _should_fit(self, choice: Choice, number: int, option: Option) -> bool:
        known = self._fits.get((_layout(choice), number, option.micro_batches))
        if known is not None:
            return known
        return self._expected(choice, option.predicted) <= self._limit

    def _expected(self, choice: Choice, predicted: Prediction) -> float:
        factor = self._factors.get(_kind(choice), self._last_factor)
        return predicted.state_bytes + factor * predicted.activation_bytes

    def _seconds(self, options: Sequence[Option]) -> float:
        return sum(
            steps * option.predicted.seconds
            for steps, option in zip(self._steps, options, strict=True)
        )


_Layout = tuple[MeshConfig, str, str, str]


def _kind(choice: Choice) -> tuple[str, str, str]:
    return choice.remat, choice.attention, choice.mlm_logits


def _layout(choice: Choice) -> _Layout:
    return choice.mesh, *_kind(choice)


def _costs_more(choice: Choice, other: Choice) -> bool:
    """Whether `choice` is `other`, or the same with more work to save memory."""
    remats, logits = get_args(Remat), get_args(MlmLogits)
    return (
        (choice.mesh, choice.attention) == (other.mesh, other.attention)
        and remats.index(choice.remat) >= remats.index(other.remat)
        and logits.index(choice.mlm_logits) >= logits.index(other.mlm_logits)
        and all(map(operator.ge, choice.micro_batches, other.micro_batches))
    )


def _options(
    cfg: PretrainConfig, choice: Choice, chip: Chip, vary: bool
) -> Iterator[list[Option]]:
    """Of every phase, the numbers of micro-batches that may be tried."""
    for phase in choice.apply(cfg).phases:
        least = phase.micro_batches
        counts = micro_batch_counts(phase, choice.mesh) if vary else (least,)
        yield [
            Option(
                count,
                predict(
                    dataclasses.replace(phase, micro_batches=count), choice.mesh, chip
                ),
            )
            for count in counts
            if count >= least
        ]
