"""Hugging Face's BertForPreTraining as the reference: eager, float32, on the CPU."""

from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.correctness_rows import Rows
from benchmarks.train_models import Task
from benchmarks.train_torch import bert_config

# What the library ties to tensors that it is given.
_TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def run_torch(
    task: Task, tensors: dict[str, np.ndarray], rows: Rows
) -> tuple[float, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Loss, logits of the slots and of the pairs, and gradients, without dropout.

    Args:
        tensors: weights by the library's names.
        rows: one sequence each.

    Raises:
        ValueError: the weights are not all that the library has.
    """
    model: Any = transformers.BertForPreTraining(bert_config(task, "eager"))
    left = model.load_state_dict(
        {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}, strict=False
    )
    if left.unexpected_keys or set(left.missing_keys) - _TIED:
        raise ValueError(f"the library's model has other tensors: {left}")
    model.eval()
    batch, masked = rows.batch, rows.masked
    labels = np.full(batch.input_ids.shape, -100)
    for b, used in enumerate(masked.weights > 0):
        labels[b, masked.positions[b, used]] = masked.labels[b, used]

    def ids(array: Any) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.long)

    outputs = model(
        input_ids=ids(masked.input_ids),
        token_type_ids=ids(batch.segment_ids),
        attention_mask=ids(batch.sequence_ids > 0),
        labels=ids(labels),
        next_sentence_label=ids(batch.nsp_labels[:, 0]),
    )
    outputs.loss.backward()
    number_of_row = np.arange(len(batch.input_ids))[:, None]
    logits = outputs.prediction_logits.detach().numpy()
    return (
        outputs.loss.item(),
        logits[number_of_row, masked.positions],
        outputs.seq_relationship_logits.detach().numpy()[:, None],
        {name: p.grad.numpy() for name, p in model.named_parameters()},
    )
