"""Computes logits of rows batch by batch, for scores and predictions."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.lengths import LengthBatches, length_batches, row_lengths
from bert_jax.limits import check_ids
from bert_jax.train import sharding
from bert_jax.train.placement import global_batch
from bert_jax.train.tasks.task import Task


class BatchedLogits:
    """The forward pass of a task on a mesh, compiled once for each length of rows."""

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

    def __call__(
        self,
        params: Any,
        examples: EncodedExamples,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> np.ndarray:
        """Logits of all rows, float32 [rows, ...]; 0 on padding that was not computed.

        Raises:
            ValueError: an id is outside its table.
        """
        found: np.ndarray | None = None
        of_tokens = False
        plan = held_out_batches(examples, self.batch_size)
        for done, (numbers, length) in enumerate(zip(*plan, strict=True), 1):
            batch = examples.batch(numbers, self.batch_size, length)
            check_ids(self.model, batch)
            out = np.asarray(self._logits(params, global_batch(self.mesh, batch)))
            if found is None:
                # Logits of tokens, as of texts, go back to the place of their row.
                rest = out.shape[1:]
                of_tokens = out.ndim > examples.input_ids.ndim
                if of_tokens:
                    rest = (*examples.input_ids.shape[1:], out.shape[-1])
                found = np.zeros((len(examples), *rest), out.dtype)
            out = out[: numbers.size]
            if of_tokens:
                found[numbers, ..., :length, :] = out
            else:
                found[numbers] = out
            progress(done, len(plan.numbers))
        assert found is not None, "no rows"
        return found


def held_out_batches(examples: EncodedExamples, batch_size: int) -> LengthBatches:
    """Batches of rows of similar length, the shortest first."""
    longest = examples.input_ids.shape[-1]
    num_batches = -(-len(examples) // batch_size)
    lengths = row_lengths(examples.num_tokens, longest, num_batches)
    order = np.arange(len(examples))
    return length_batches(examples.num_tokens, lengths, order, batch_size)
