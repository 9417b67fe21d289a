"""What fine-tuning trains and how: for one run, and for many at once."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import optax

from bert_jax.config import (
    ComputeConfig,
    FinetuneConfig,
    ModelConfig,
    OptimizerConfig,
)
from bert_jax.train.diagnosis import in_a_row
from bert_jax.train.freezing import num_trained, stop_frozen
from bert_jax.train.initial import ENCODER
from bert_jax.train.lora import PART, init_lora, merged, with_lora
from bert_jax.train.objectives import Objective, task_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import TrainState, init_state
from bert_jax.train.tasks import Task

# The rate of BERT for training all weights (Devlin et al. 2018, appendix A.3); for far
# fewer parameters, Hu et al. 2021 (table 9) take ten times as much.
_RATE_OF_ALL_WEIGHTS = 5e-5


class Tuning(NamedTuple):
    """The parts that fine-tuning is made of. All of them are pure functions."""

    schedule: optax.Schedule
    optimizer_cfg: OptimizerConfig
    """As the config has it, with all that is frozen in `freeze`."""
    optimizer: optax.GradientTransformation
    objective: Objective
    in_a_row: Objective
    """The same, computed as a diagnosis needs it."""
    init_params: Callable[[jax.Array], dict]
    """Draws all parameters from a key: encoder, head, and LoRA's matrices."""
    merged: Callable[[dict], dict]
    """From these parameters to those of the task's model, which others take."""

    def fresh_state(
        self, seed: int | jax.Array, without: Collection[str] = ()
    ) -> TrainState:
        """The state of step 0, whose encoder is random too.

        Args:
            seed: of the parameters.
            without: parts of the parameters to leave out. Those that a checkpoint gives
                need not be drawn, and a program that draws much compiles for long.
        """
        state = init_state(self.init_params, self.optimizer, seed)
        kept = {name: x for name, x in state.params.items() if name not in without}
        return dataclasses.replace(state, params=kept)

    def describe(self) -> str:
        """Says how many parameters are trained, and when the rate is too low for so few."""
        shapes = jax.eval_shape(self.init_params, jax.random.key(0))
        total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        trained = num_trained(self.optimizer_cfg, shapes)
        text = (
            f"{trained:,} of {total:,} parameters are trained ({trained / total:.2%})"
        )
        rate = self.optimizer_cfg.learning_rate
        if trained < total / 10 and rate <= _RATE_OF_ALL_WEIGHTS:
            text += (
                f"\n  note: a learning rate of {rate:g} suits training of all weights; so "
                "few need about ten times as much (--optimizer.learning-rate)"
            )
        return text


def make_tuning(
    cfg: FinetuneConfig, model: ModelConfig, task: Task, num_outputs: int, steps: int
) -> Tuning:
    """Puts the parts together.

    Args:
        cfg: settings of a run.
        model: architecture of its encoder.
        task: what is learned.
        num_outputs: number of logits.
        steps: number of updates of the whole run, which the schedule needs.

    Raises:
        ValueError: `cfg` freezes a part that the model does not have, or everything.
    """

    def init_params(key: jax.Array) -> dict:
        params = task.init_params(model, num_outputs, key)
        if not cfg.lora.rank:
            return params
        # Of a key of their own, so that the head is that of a run without LoRA.
        own = jax.random.fold_in(key, 1)
        return {**params, PART: init_lora(cfg.lora, params["layers"], own)}

    shapes = jax.eval_shape(init_params, jax.random.key(0))
    optimizer_cfg = cfg.optimizer
    if cfg.head_only or cfg.lora.rank:
        encoder = tuple(part for part in ENCODER if part in shapes)
        optimizer_cfg = dataclasses.replace(cfg.optimizer, freeze=encoder)
    schedule = make_schedule(optimizer_cfg, steps)

    def objective(compute: ComputeConfig) -> Objective:
        plain = task_objective(task, model, compute, cfg.dropout)
        return stop_frozen(optimizer_cfg, with_lora(cfg.lora, plain))

    return Tuning(
        schedule=schedule,
        optimizer_cfg=optimizer_cfg,
        optimizer=make_optimizer(optimizer_cfg, schedule),
        objective=objective(cfg.compute),
        in_a_row=objective(in_a_row(cfg.compute)),
        init_params=init_params,
        merged=functools.partial(merged, cfg.lora),
    )
