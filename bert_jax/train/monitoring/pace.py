"""Which steps compile, and the first word about how long a run will take."""

import time

from bert_jax.train.monitoring.metrics import duration


class Pace:
    """The first steps of a stage: which of them compile, and how long it will take."""

    _STEPS = 2

    def __init__(self) -> None:
        self._said = False
        self._since = (0, 0.0)
        self._shapes: set[tuple[int, ...]] = set()

    def is_first_of(self, shape: tuple[int, ...]) -> bool:
        """Whether no batch before had this shape, so that its step is compiled."""
        is_first = shape not in self._shapes
        self._shapes.add(shape)
        return is_first

    def restart(self, done: int) -> None:
        """Measures from here on: a step has just been compiled."""
        self._since = (done, time.perf_counter())

    def is_due(self, done: int) -> bool:
        """Whether `describe` is due: not before a step has been compiled, for a run that
        goes back passes batches by without any."""
        measures = bool(self._shapes) and not self._said
        return measures and done == self._since[0] + self._STEPS

    def describe(self, done: int, end: int) -> str:
        """The estimate for the steps up to `end`, once the devices have done `done`."""
        self._said = True
        step_secs = (time.perf_counter() - self._since[1]) / self._STEPS
        return (
            f"about {duration(step_secs * (end - done))} until step {end:,}: the first "
            f"steps took {step_secs:.3g} s each"
        )
