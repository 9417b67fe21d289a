"""The train step of bert_jax, called as `pretrain` calls it, but without the loader."""

from typing import Any

import jax
import numpy as np

from benchmarks.turns import RepeatedStep
from benchmarks.workload import (
    LEARNING_RATE,
    Task,
    check_untrained,
    synthetic_batch,
)
from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.train.mesh import make_mesh
from bert_jax.train.program import Program, pretrain_program, synthetic_vocabulary


def run_config(task: Task, dtype: str, rows: int, **options: Any) -> PretrainConfig:
    """The run whose step is measured.

    Args:
        task: model and rows.
        dtype: "float32", "bfloat16", or "fp8" (the layers' products in 8-bit floats, all
            others in bfloat16).
        rows: of a batch.
        options: further fields of `ComputeConfig`.
    """
    fp8 = dtype == "fp8"
    return PretrainConfig(
        model=task.model(),
        compute=ComputeConfig(
            dtype="bfloat16" if fp8 else dtype,  # type: ignore[arg-type]
            fp8=fp8,
            **options,
        ),
        dropout=task.dropout,
        masking=task.masking,
        data=DataConfig(
            sequence_length=task.length,
            pairs="none" if task.modern else "next_sentence",
            layout="packed" if task.packed else "padded",
            max_pairs_per_row=task.pairs,
        ),
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, warmup_steps=0),
        batch_size=rows,
        num_steps=10_000,
    )


def program_of(cfg: PretrainConfig, device: jax.Device) -> Program:
    """The step of a run on one device, not compiled yet."""
    mesh = make_mesh(MeshConfig(data=1), [device])
    return pretrain_program(cfg, mesh, synthetic_vocabulary(cfg.model.vocab_size))


class JaxStep(RepeatedStep):
    """Masks, forward and backward pass, clipping and AdamW."""

    def __init__(
        self, task: dict[str, Any], platform: str, dtype: str, rows: int, **options: Any
    ) -> None:
        """Compiles the step and takes two.

        Args:
            task: fields of `Task`.
            platform: where it must run; another one is refused.
            dtype, rows, options: as of `run_config`.

        Raises:
            ValueError: JAX found another platform, or the options do not fit.
        """
        device = jax.devices()[0]
        if device.platform != platform:
            raise ValueError(f"JAX found a {device.platform} here, not a {platform}")
        self._task = Task(**task)
        program = program_of(run_config(self._task, dtype, rows, **options), device)
        self._step = program.step.lower(program.state, program.batch).compile()
        self._state = program.make_state()
        self._batch = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding),
            synthetic_batch(self._task, rows),
            program.batch,
        )
        self._metrics: Any = None
        self.warm_up()

    def run(self, count: int) -> None:
        for _ in range(count):
            self._state, self._metrics = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)

    def loss(self) -> float:
        """The loss of the last step, in nats."""
        return sum(
            float(np.asarray(self._metrics[name].value()))
            for name in ("mlm_loss", "nsp_loss")
            if name in self._metrics
        )

    def check(self) -> None:
        check_untrained(self.loss(), self._task)
