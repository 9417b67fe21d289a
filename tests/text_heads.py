"""The models over single texts as one fixture with three values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from bert_jax.batch import ClassifyBatch
from bert_jax.model.text_heads import TEXT_HEADS
from bert_jax.train.tasks import TASKS


class TextHead(NamedTuple):
    """A model over single texts, with what it takes to try it."""

    name: str  # of its parameters
    init: Callable[..., dict]  # (cfg, key) -> params
    apply: Callable[..., Any]  # (cfg, params, batch) -> logits
    loss: Callable[..., Any]  # (logits, batch, targets) -> (loss, metrics)
    num_labels: int
    targets: Callable[[ClassifyBatch], np.ndarray]  # some of them count nowhere


@pytest.fixture(scope="session", params=["classifier", "tokens", "spans"])
def text_head(request) -> TextHead:
    def of_rows(batch: ClassifyBatch) -> np.ndarray:
        return np.asarray(batch.labels, np.int32)

    def of_tokens(batch: ClassifyBatch) -> np.ndarray:
        labels = np.random.default_rng(7).integers(0, 3, batch.input_ids.shape)
        labels[:, ::4] = -100
        return np.where(batch.input_mask > 0, labels, -100).astype(np.int32)

    def of_spans(batch: ClassifyBatch) -> np.ndarray:
        rows, length = batch.input_ids.shape
        ends = np.array([[1, 3]] * (rows - 1) + [[2, 4]], np.int32)
        ends[0] = 4, length - 1
        assert batch.input_mask[0].all()
        return ends

    def loss_of(kind):
        def loss(logits, batch, targets):
            batch = batch._replace(labels=targets)
            means = TASKS[kind].loss(logits, batch)
            weights = TASKS[kind].loss_weights(batch).items()
            return sum(means[name].sum / weight for name, weight in weights), means

        return loss

    made = {
        "classifier": (loss_of("classification"), 3, of_rows),
        "tokens": (loss_of("tokens"), 3, of_tokens),
        "spans": (loss_of("spans"), 2, of_spans),
    }
    head = TEXT_HEADS[request.param]

    def init(cfg, key):
        return head.init_params(cfg, 3, key)

    return TextHead(head.name, init, head.apply, *made[head.name])
