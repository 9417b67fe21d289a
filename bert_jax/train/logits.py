"""Computes logits of rows batch by batch, for scores and predictions."""

import collections
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.lengths import (
    LengthBatches,
    compiled_lengths,
    length_batches,
    row_lengths,
)
from bert_jax.limits import check_ids
from bert_jax.train import sharding
from bert_jax.train.placement import global_batch
from bert_jax.train.tasks.task import Task

# A call with few rows, such as one text, has batches of the smallest size that holds all.
_FEW_ROWS = (1, 8)
# What compiling for a length of rows costs, in FLOPs of training: some seconds of a
# processor of today. It decides how many lengths pay, so it must not depend on the machine.
_COMPILE_FLOPS = 3e11
# Batches that the device may have while the host makes the next one.
_IN_FLIGHT = 2


Part = tuple[np.ndarray, int, Any]
"""Of a batch: numbers of its rows, the length of its rows, and their logits."""


class BatchedLogits:
    """The forward pass of a task on a mesh, compiled once for each form of a batch.

    Whatever is asked of it, there are at most 3 sizes of a batch and `compiled_lengths`
    of its rows: at most 60 programs for rows of 512 tokens, and in general far fewer.
    """

    def __init__(
        self,
        task: Task,
        model: ModelConfig,
        compute: ComputeConfig,
        mesh: Mesh,
        batch_size: int,
        times: int = 1,
    ) -> None:
        """Compiles nothing yet.

        Args:
            task: gives the forward pass.
            model: architecture of the encoder.
            compute: how it is computed.
            mesh: devices to compute on.
            batch_size: most rows at once.
            times: how often the same rows will be asked for, such as once an epoch.
        """
        self.model, self.mesh, self.batch_size = model, mesh, batch_size
        self._price = compile_price(model) / times
        self._lengths: set[int] = set()

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
        batch_size = self._batch_size(len(examples))
        plan = held_out_batches(examples, batch_size, self._price, self._lengths)
        self._lengths.update(plan.lengths.tolist())

        def batches() -> Iterator[Part]:
            for numbers, length in zip(*plan, strict=True):
                batch = examples.batch(numbers, batch_size, length)
                check_ids(self.model, batch)
                batch = global_batch(self.mesh, batch)
                yield numbers, length, self._logits(params, batch)

        def counted() -> Iterator[Part]:
            for done, part in enumerate(_ahead(batches()), 1):
                yield part
                progress(done, len(plan.numbers))

        return in_order(examples, counted())

    def _batch_size(self, num_rows: int) -> int:
        if self.mesh.size > 1:  # every device takes its share of a batch
            return self.batch_size
        few = [size for size in _FEW_ROWS if num_rows <= size <= self.batch_size]
        return few[0] if few else self.batch_size


def in_order(examples: EncodedExamples, parts: Iterable[Part]) -> np.ndarray:
    """Logits of all rows in their order; those of tokens stand at the tokens' places.

    Args:
        examples: the rows.
        parts: what was computed of each batch; together they have every row once.

    Returns:
        float32 [rows, ...]; 0 on padding that was not computed.
    """
    found: np.ndarray | None = None
    for numbers, length, computed in parts:
        out = np.asarray(computed)[: numbers.size]
        of_tokens = out.ndim > examples.input_ids.ndim
        if found is None:
            rest = out.shape[1:]
            if of_tokens:
                rest = (*examples.input_ids.shape[1:], out.shape[-1])
            found = np.zeros((len(examples), *rest), out.dtype)
        if of_tokens:
            found[numbers, ..., :length, :] = out
        else:
            found[numbers] = out
    assert found is not None, "no rows"
    return found


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; the next one is begun before a batch is handed out."""
    begun: collections.deque[Any] = collections.deque()
    for batch in batches:
        begun.append(batch)
        if len(begun) == _IN_FLIGHT:
            yield begun.popleft()
    yield from begun


def compile_price(model: ModelConfig) -> float:
    """Places of rows that take as long, in an encoder, as compiling for one length.

    It holds for training, and for the forward pass, where both take about a third.
    """
    num_matrices = 2 if model.mlp == "gelu" else 3
    a_layer = 4 * model.hidden_size**2 + num_matrices * (
        model.hidden_size * model.mlp_size
    )
    return _COMPILE_FLOPS / (6 * model.num_layers * a_layer)


def held_out_batches(
    examples: EncodedExamples,
    batch_size: int,
    price: float,
    known: Collection[int] = (),
) -> LengthBatches:
    """Batches of rows of similar length, the shortest first.

    Args:
        price: places that take as long as compiling for one more length.
        known: lengths that have been compiled already, and so cost nothing.
    """
    longest = examples.input_ids.shape[-1]
    lengths = row_lengths(examples.num_tokens, longest, price / examples.group_size)
    allowed = compiled_lengths(longest)
    lengths = allowed[np.searchsorted(allowed, lengths)]
    lengths = np.unique([*lengths, *(x for x in known if x <= longest)])
    order = np.arange(len(examples))
    return length_batches(examples.num_tokens, lengths, order, batch_size)
