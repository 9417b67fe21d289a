"""A small model that trains in milliseconds, with batches that can make its numbers bad."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import LoopConfig, MeshConfig, ModelConfig, OptimizerConfig
from bert_jax.train.diagnosis import diagnose
from bert_jax.train.loop import run_loop
from bert_jax.train.losses import Mean
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import Objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import Identity
from bert_jax.train.schedules import make_schedule
from bert_jax.train.stage import Stage
from bert_jax.train.step import abstract_state, compile_step, init_state

NUM_STEPS = 24
ROWS = 128
LOOP = LoopConfig(log_every_steps=4, eval_every_steps=0, checkpoint_every_steps=8)
OPTIMIZER = OptimizerConfig(
    learning_rate=0.02, warmup_steps=2, schedule="constant", ema_decay=0.9
)


class Batch(NamedTuple):
    input_ids: Any  # int32 [B, 1]; the loop looks at its shape
    x: Any  # float32 [B, 4]
    y: Any  # float32 [B]
    edge: Any  # float32 [B]; at 0 the loss is finite and its gradient is not


def batch(number: int, fault: str | None = None) -> Batch:
    """The batch of a step; a fault is "input" or "gradient"."""
    rng = np.random.default_rng(number)
    x = rng.normal(0.0, 1.0, (ROWS, 4)).astype(np.float32)
    noise = rng.normal(0.0, 1.0, ROWS).astype(np.float32)  # the least loss is about 1
    y = x @ np.array([0.5, -1.0, 0.25, 2.0], np.float32) + noise
    edge = np.ones(ROWS, np.float32)
    if fault == "input":
        x[3, 1] = np.nan
    elif fault == "gradient":
        edge[5] = 0.0
    return Batch(np.zeros((ROWS, 1), np.int32), x, y, edge)


def init_params(key: jax.Array) -> dict:
    keys = jax.random.split(key, 3)
    return {
        "embed": {"token": {"embedding": jax.random.normal(keys[0], (4, 8)) * 0.5}},
        "layers": {
            "mlp": {"up": {"kernel": jax.random.normal(keys[1], (2, 8, 8)) * 0.2}}
        },
        "nsp": {"kernel": jax.random.normal(keys[2], (8, 1)) * 0.5},
    }


def objective(dtype: str = "float32") -> Objective:
    def metrics(params: dict, rows: Batch) -> dict[str, Mean]:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        hidden = rows.x.astype(dtype) @ params["embed"]["token"]["embedding"]
        for kernel in params["layers"]["mlp"]["up"]["kernel"]:
            hidden = hidden + jnp.tanh(hidden @ kernel)
        guess = (hidden @ params["nsp"]["kernel"])[:, 0].astype(jnp.float32)
        losses = (guess - rows.y) ** 2 + 1e-3 * jnp.sqrt((rows.edge * guess) ** 2)
        return {"mse": Mean(losses.sum(), jnp.float32(losses.size))}

    return Objective(
        prepare=lambda batch, key, step: batch,
        weights=lambda rows: {"mse": jnp.float32(rows.y.size)},
        metrics=metrics,
    )


class Toy(NamedTuple):
    mesh: Any
    objective: Objective
    abstract: Any
    make_state: Callable[[], Any]
    step: Any


@functools.cache
def toy(
    num_devices: int = 1,
    dtype: str = "float32",
    cfg: OptimizerConfig = OPTIMIZER,
    optimizer: Any = None,
) -> Toy:
    """The compiled step and what belongs to it."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:num_devices])
    optimizer = optimizer or make_optimizer(cfg, make_schedule(cfg, NUM_STEPS))
    loss = objective(dtype)

    def make_state() -> Any:
        return init_state(init_params, optimizer, 0)

    abstract = abstract_state(make_state, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step = compile_step(loss, optimizer, mesh, abstract)
    return Toy(mesh, loss, abstract, jax.jit(make_state, out_shardings=places), step)


def train(
    run: Any,
    faults: dict[int, str] | None = None,
    *,
    parts: Toy | None = None,
    step: Any = None,
    num_steps: int = NUM_STEPS,
    kill_at: int | None = None,
    harder_from: int | None = None,
    **loop: Any,
) -> Any:
    """Trains, or goes on with, a run whose batches of these numbers have faults.

    From batch `harder_from` on, a second stage has targets that are 9 times as large.
    """
    parts, faults = parts or toy(), faults or {}
    run.mkdir(exist_ok=True)

    def batches(start: int, end: int, first: int) -> Any:
        for number in range(start + first, end):
            if number == kill_at:
                raise KeyboardInterrupt
            made = batch(number, faults.get(number))
            yield made._replace(y=9.0 * made.y) if start else made

    parts_of_it = [batch(10_000 + number) for number in range(16)]
    held_out = Batch(*map(np.concatenate, zip(*parts_of_it, strict=True)))

    @jax.jit
    def score(params: Any) -> jax.Array:
        return parts.objective.metrics(params, held_out)["mse"].value()

    return run_loop(
        run=run,
        identity=Identity(ModelConfig(), "0"),
        cfg=dataclasses.replace(LOOP, **loop),
        mesh=parts.mesh,
        stages=[
            Stage(
                num_steps=end - start,
                step=step or parts.step,
                batches=functools.partial(batches, start, end),
                evaluate=lambda params: {"mse": float(score(params))},
                rates={},
                flops=None,
                check=lambda batch: None,
                rows=lambda number: {"rows": [number]},
                diagnose=functools.partial(diagnose, parts.objective, parts.mesh),
            )
            for start, end in itertools.pairwise(
                [0, *([] if harder_from is None else [harder_from]), num_steps]
            )
        ],
        make_state=parts.make_state,
        abstract=parts.abstract,
        show=str,
        learning_rate=make_schedule(OPTIMIZER, NUM_STEPS),
        began=time.time(),
    )
