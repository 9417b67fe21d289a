"""Checks that a fine-tuning run does what it is meant to do, and words for when it does not."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.train import sharding
from bert_jax.train.losses import Mean
from bert_jax.train.moments import moments_of
from bert_jax.train.optimizer import is_stacked
from bert_jax.train.step import Step, TrainState
from bert_jax.train.tasks import Task

# The second matrix of LoRA moves in the first update with a learning rate above 0, and
# only then the gradient reaches the first one. So the look is not at the first update.
_LOOK_AFTER = 10
# A fresh head adds a few tenths of a nat to the loss of equal probabilities.
_FAR_NATS = 1.0


class WatchedStep:
    """A step that looks at the first updates of a session and says what is wrong with them.

    It looks at the first loss of the run, if `fresh_loss` is known, and after a few
    updates at the gradients of all trained parts. All hosts of a job call it alike.
    """

    def __init__(self, step: Step, mesh: Mesh, fresh_loss: float | None = None) -> None:
        self._step, self._fresh_loss, self._calls = step, fresh_loss, 0
        self._moved = jax.jit(_moved, out_shardings=sharding.replicated(mesh))

    def __call__(
        self, state: TrainState, batch: Any
    ) -> tuple[TrainState, dict[str, Mean]]:
        is_first = self._calls == 0 and int(state.step) == 0
        state, metrics = self._step(state, batch)
        self._calls += 1
        if is_first and self._fresh_loss is not None:
            loss = jax.device_get(metrics["loss"])
            text = say_first_loss(float(loss.sum / loss.weight), self._fresh_loss)
            print(text, flush=True)
        if self._calls == _LOOK_AFTER:
            moved = jax.device_get(self._moved(moments_of(state.opt_state).mu))
            if parts := unreached(moved):
                print(
                    f"warning: in {_LOOK_AFTER} updates no gradient has reached "
                    f"{', '.join(parts)}; nothing is learned there. Look for a part of "
                    "the model that is cut off, or for a type of numbers in which small "
                    "gradients become 0.",
                    flush=True,
                )
        return state, metrics


def say_first_loss(loss: float, fresh_loss: float) -> str:
    """The first loss beside the one that equal probabilities would have."""
    text = (
        f"first loss {loss:.3f}; a head that knows nothing has about {fresh_loss:.3f}"
    )
    if fresh_loss / 2 < loss < fresh_loss + _FAR_NATS:
        return text
    return (
        f"warning: {text}. Look at the labels, and whether the checkpoint is sound: its "
        "hidden states may be far larger than those of a trained encoder."
    )


def unreached(moved: Any) -> list[str]:
    """Names of the parts and of the layers in which nothing has moved.

    Args:
        moved: tree like the trained parameters of bool arrays: a scalar for a tensor, and
            one for each layer, [L], for a stack of layers.
    """
    found: dict[str, bool] = {}
    for path, moves in jax.tree_util.tree_leaves_with_path(moved):
        part = path[0].key
        for number, one in enumerate(np.atleast_1d(moves)):
            # Frozen layers are the first ones and stand in no moments.
            name = f"{part} (trained layer {number + 1})" if np.ndim(moves) else part
            found[name] = found.get(name, False) or bool(one)
    return [name for name, moves in found.items() if not moves]


def no_gain_over_constant(
    task: Task, evaluation: Mapping[str, float], constant: Mapping[str, float]
) -> str | None:
    """A warning where a model is no better than the best constant answer.

    It looks at the first metric of the task that both have.
    """
    for metric in task.metrics:
        if metric.name in evaluation and metric.name in constant:
            ours, simple = evaluation[metric.name], constant[metric.name]
            gain = ours - simple if metric.larger_is_better else simple - ours
            if gain > 0:
                return None
            return (
                f"warning: {metric.say(ours)} is no better than {metric.form_of(simple)} of "
                "giving every example the same answer. Usually the learning rate is too "
                "high or too low, there were too few updates, or the encoder is not a "
                "trained one."
            )
    return None


def _moved(mu: Any) -> Any:
    """Where the first moments are not all zero."""

    def one(path: tuple, moment: jax.Array) -> jax.Array:
        first = 1 if is_stacked(path) else 0
        return jnp.abs(moment).sum(axis=tuple(range(first, moment.ndim))) != 0

    return jax.tree_util.tree_map_with_path(one, mu)
