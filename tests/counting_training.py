"""A training whose weights are the number of steps so far, for tests of the loop alone."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config import LoopConfig, MeshConfig, ModelConfig
from bert_jax.train.loop import Stage, Trained, run_loop
from bert_jax.train.losses import Mean
from bert_jax.train.mesh import make_mesh
from bert_jax.train.runs.checkpoint import Identity
from bert_jax.train.sharding import replicated
from bert_jax.train.step import TrainState


class KilledError(Exception):
    """A kill, at a place that a test chooses."""


@jax.jit
def counting_step(state: TrainState, batch: Any) -> Any:
    params = {"w": state.params["w"] + 1.0}
    new = TrainState(state.step + 1, params, state.opt_state, state.key)
    return new, {"loss": Mean(state.params["w"].sum(), jnp.ones(()))}


def stage_of(**parts: Any) -> Stage:
    """A stage of `counting_step` that measures no speed, with some parts of its own."""
    rest: Any = {"rates": {}, "flops": None, "check": lambda batch: None}
    return Stage(**{"step": counting_step, **rest, **parts})


def train_counting(
    run: pathlib.Path,
    model: ModelConfig,
    cfg: LoopConfig,
    stages: list[Stage],
    opt_state: Any = None,
    **loop: Any,
) -> Trained:
    """Goes through the stages on one device, from weights and moments of zero."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    place = replicated(mesh)
    zero = TrainState(
        step=jnp.int32(0),
        params={"w": jnp.zeros(4)},
        opt_state=opt_state or {"m": jnp.zeros(4)},
        key=jnp.zeros(2, jnp.uint32),
    )
    return run_loop(
        run=run,
        identity=Identity(model, "0"),
        cfg=cfg,
        mesh=mesh,
        stages=stages,
        make_state=lambda: jax.device_put(zero, place),
        abstract=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), zero
        ),
        show=str,
        learning_rate=lambda step: 0.5,
        began=time.time(),
        **loop,
    )
