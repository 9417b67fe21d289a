"""What tasks over whole texts share: rows of one text or one pair, a head over [CLS]."""

from collections.abc import Sequence
from typing import Any

import jax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig, TaskConfig
from bert_jax.data.labelled.examples import Text
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.model import classification
from bert_jax.train.tasks.task import Task


class TextTask(Task):
    """Tasks with one label per text or pair, and a linear head over the pooled [CLS]."""

    head = "classifier"
    pooled = True

    def num_texts(self, cfg: TaskConfig) -> int:
        return len(cfg.text_columns)

    def unlabelled(self, texts: Sequence[Text]) -> LabelledTexts:
        return LabelledTexts(tuple(texts), ())

    def init_params(
        self, model: ModelConfig, num_outputs: int, key: jax.Array
    ) -> dict[str, Any]:
        return classification.init_params(model, num_outputs, key)

    def apply(
        self,
        model: ModelConfig,
        params: Any,
        batch: ClassifyBatch,
        *,
        compute: ComputeConfig = ComputeConfig(),
        dropout: DropoutConfig = DropoutConfig(),
        key: jax.Array | None = None,
    ) -> jax.Array:
        return classification.apply(
            model, params, batch, compute=compute, dropout=dropout, key=key
        )

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        return {"loss": batch.weights.sum()}
