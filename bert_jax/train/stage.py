"""What a training loop goes through, and what it returns."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bert_jax.train.best import Best
from bert_jax.train.flops import Work
from bert_jax.train.step import Step, TrainState


class Stage(NamedTuple):
    """Steps with the same settings: a whole run, or one of its phases."""

    num_steps: int
    step: Step
    """The compiled step."""
    batches: Callable[[int], Iterator[Any]]
    """batches(step) yields this host's batches from a step of the stage on."""
    evaluate: Callable[[Any], dict[str, float]]
    """Scores parameters. It is called as the LoopConfig says, and at the end of the
    stage."""
    rates: dict[str, str]
    """Dict from the name of a logged rate to the field of `Work` that it counts per
    second."""
    flops: Callable[[Work], float] | None
    """Counts the useful FLOPs of some work, for MFU. None: they are not counted."""
    check: Callable[[Any], None]
    """Raises ValueError for a host's batch that the model must not get."""
    rows: Callable[[int], dict[str, Any]] = lambda number: {}
    """rows(n) says, in JSON's types, which texts are in batch n of the stage."""
    diagnose: Callable[[TrainState, Any], str] | None = None
    """diagnose(state, batch) says in sentences where the step of a global batch goes
    wrong. None: nothing is known."""


class Trained(NamedTuple):
    """The results of a finished run."""

    state: TrainState
    evaluation: dict[str, float]
    """Scores of the last state."""
    best: Best | None
    """The best state, which may not be the last one; None without a `Selection`."""
    elapsed_secs: float
    """Seconds of training in all sessions together."""
    goodput: dict[str, float]
    """Where the wall time went, up to the last evaluation (`Goodput.summary`)."""
    last_line: dict[str, Any]
    """The last training metrics of this session; empty if it made no step."""
