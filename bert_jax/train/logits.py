"""Computes logits of rows batch by batch, for scores and predictions."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.limits import check_ids
from bert_jax.train import sharding
from bert_jax.train.placement import global_batch
from bert_jax.train.tasks.task import Task


class BatchedLogits:
    """The forward pass of a task on a mesh, compiled once for one batch size."""

    def __init__(
        self,
        task: Task,
        model: ModelConfig,
        compute: ComputeConfig,
        mesh: Mesh,
        batch_size: int,
    ) -> None:
        self.model, self.mesh, self.batch_size = model, mesh, batch_size

        def logits(params: Any, batch: ClassifyBatch) -> jax.Array:
            with sharding.on_mesh(mesh):
                return task.apply(model, params, batch, compute=compute.inference)

        self._logits = jax.jit(logits, out_shardings=sharding.replicated(mesh))

    def __call__(self, params: Any, examples: EncodedExamples) -> np.ndarray:
        """Logits of all rows, float32 [rows, ...].

        Raises:
            ValueError: an id is outside its table.
        """
        found = []
        for start in range(0, len(examples), self.batch_size):
            numbers = np.arange(start, min(start + self.batch_size, len(examples)))
            batch = examples.batch(numbers, self.batch_size)
            check_ids(self.model, batch)
            out = self._logits(params, global_batch(self.mesh, batch))
            found.append(np.asarray(out)[: numbers.size])
        return np.concatenate(found)
