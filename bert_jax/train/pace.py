"""The first word about how long a run will take."""

import time

from bert_jax.train.metrics import duration


class Pace:
    """The first estimate of how long a stage takes, from its first steps."""

    _STEPS = 2

    def __init__(self) -> None:
        self._said = False
        self._since = (0, 0.0)

    def restart(self, done: int) -> None:
        """Measures from here on: a step has just been compiled."""
        self._since = (done, time.perf_counter())

    def is_due(self, done: int) -> bool:
        return not self._said and done == self._since[0] + self._STEPS

    def describe(self, done: int, end: int) -> str:
        """The estimate for the steps up to `end`, once the devices have done `done`."""
        self._said = True
        step_secs = (time.perf_counter() - self._since[1]) / self._STEPS
        return (
            f"about {duration(step_secs * (end - done))} until step {end:,}: the first "
            f"steps took {step_secs:.3g} s each"
        )
