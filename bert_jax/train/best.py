"""The best state of a fine-tuning run: which one it is, and its weights on disk."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, NamedTuple

from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.runs.checkpoint import BEST, Checkpoints, Identity
from bert_jax.train.step import TrainState
from bert_jax.train.tasks.task import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """How the best state of a run is chosen, and when the run ends without a better one."""

    deciding: Callable[[Collection[str]], Metric]
    """deciding(names) is the one of the scores of an evaluation that decides."""
    patience: int | None = None
    """Number of evaluations in a row without gain after which the run ends. None: it
    goes through all its steps."""
    weights: Callable[[Any], Any] = lambda params: params
    """weights(params) are the parameters that other commands take, all of them."""


class Best(NamedTuple):
    """The best state that a run has judged."""

    step: int
    evaluation: dict[str, float]


class BestState:
    """Keeps the weights of the best state in best/ of the run directory.

    Its manifest holds the evaluation, so a killed run knows its best. A run that goes on
    from a checkpoint before its best state repeats the steps between them and keeps what
    it has.

    Raises:
        ValueError: the hosts of the job see different files, or the manifest was changed.
    """

    def __init__(
        self,
        run: pathlib.Path,
        identity: Identity,
        selection: Selection,
        every: int | None,
        show: Callable[[dict[str, float]], str],
    ) -> None:
        """Reads which state is the best so far.

        Args:
            run: run directory.
            identity: what the weights are checked against.
            selection: how the best state is chosen.
            every: number of updates between two evaluations, if they are regular.
            show: turns scores into text.
        """
        self._selection, self._every, self._show = selection, every, show
        self._checkpoints = Checkpoints(run, identity, keep=1, place=BEST)
        self.best: Best | None = None
        step = self._checkpoints.latest_step()
        if step is not None:
            self.best = Best(step, self._checkpoints.note("evaluation"))
            self._checkpoints.delete_older(step)

    def __enter__(self) -> "BestState":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._checkpoints.__exit__(kind, error, where)

    def __str__(self) -> str:
        assert self.best is not None
        name = self._selection.deciding(self.best.evaluation).name
        score = self._show({name: self.best.evaluation[name]})
        return f"the best: {score} at step {self.best.step:,}"

    def consider(self, state: TrainState, evaluation: dict[str, float]) -> bool:
        """Keeps the state if it is better than the best one so far; of equals, the earlier.

        All hosts of a job call it, and do what the first one finds.

        Returns:
            Whether the best state is the given one.

        Raises:
            OSError: the weights could not be written.
        """
        step = int(state.step)
        if on_first_host("the best state", lambda: self._is_better(evaluation)):
            weights = dataclasses.replace(
                state, params=self._selection.weights(state.params), opt_state=None
            )
            self._checkpoints.save(weights, evaluation=evaluation)
            self._checkpoints.wait()
            self.best = Best(step, evaluation)
        return self.best is not None and self.best.step == step

    def is_over(self, step: int) -> bool:
        """Whether the patience ended with the evaluation at `step` or before."""
        every, patience = self._every, self._selection.patience
        if self.best is None or not patience or not every:
            return False
        return step // every - self.best.step // every >= patience

    def _is_better(self, evaluation: dict[str, float]) -> bool:
        if self.best is None:
            return True
        metric = self._selection.deciding(evaluation)
        gain = evaluation[metric.name] - self.best.evaluation[metric.name]
        return gain > 0 if metric.larger_is_better else gain < 0
