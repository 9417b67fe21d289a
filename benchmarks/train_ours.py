"""bert_jax's own train step, driven as `pretrain` drives it but for the loader."""

import time
from typing import Any

import jax
import numpy as np

from benchmarks.measure import peak_memory
from benchmarks.train_candidates import Order
from benchmarks.train_models import synthetic_batch
from bert_jax.config import (
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import Program, pretrain_program, synthetic_vocabulary


def config_of(order: Order) -> PretrainConfig:
    """The run whose step is measured."""
    task, candidate = order.task, order.candidate
    fp8 = candidate.dtype == "fp8"
    compute_dtype = "bfloat16" if fp8 else candidate.dtype
    return PretrainConfig(
        model=task.model(compute_dtype=compute_dtype, fp8=fp8, **candidate.options),
        data=DataConfig(
            sequence_length=task.length,
            layout="packed" if task.packed else "padded",
            max_pairs_per_row=task.pairs_per_row,
        ),
        optimizer=OptimizerConfig(warmup_steps=100),
        batch_size=candidate.rows,
        num_steps=10_000,
    )


def program_of(order: Order, devices: list[jax.Device]) -> Program:
    """Its step on one device, not compiled yet."""
    mesh = make_mesh(MeshConfig(data=1), devices[:1])
    vocabulary = synthetic_vocabulary(order.task.vocab_size)
    return pretrain_program(config_of(order), mesh, vocabulary)


class Trainer:
    """A compiled step and its state; see `train_worker.Trainer`."""

    def __init__(self, order: Order) -> None:
        self._device = jax.devices()[0]
        if self._device.platform != order.platform:
            raise ValueError(
                f"JAX found a {self._device.platform} here, not a {order.platform}"
            )
        program = program_of(order, [self._device])
        started = time.perf_counter()
        lowered = program.step.lower(program.state, program.batch)
        self._step = lowered.compile()
        self.facts = {"compile time": time.perf_counter() - started}
        memory = self._step.memory_analysis()
        if memory is not None:
            self.facts["temporaries"] = memory.temp_size_in_bytes / 2**30
        self._state = program.make_state()
        batch = synthetic_batch(order.task, order.candidate.rows)
        self._batch = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding), batch, program.batch
        )
        self._metrics: Any = None

    def steps(self, count: int) -> dict[str, float]:
        """Trains; returns seconds of it all, and the host's until the last call came back."""
        jax.block_until_ready(self._state)
        started = time.perf_counter()
        for _ in range(count):
            self._state, self._metrics = self._step(self._state, self._batch)
        dispatched = time.perf_counter()
        jax.block_until_ready(self._state)
        return {
            "seconds": time.perf_counter() - started,
            "host_seconds": dispatched - started,
        }

    def loss(self) -> float:
        """Of the last step, in nats."""
        return sum(
            float(np.asarray(self._metrics[name].value()))
            for name in ("mlm_loss", "nsp_loss")
        )

    def peak_bytes(self) -> float:
        """Of the device; of this process where the device is the host."""
        stats = self._device.memory_stats() or {}
        return float(stats.get("peak_bytes_in_use") or peak_memory()[0] * 2**30)
