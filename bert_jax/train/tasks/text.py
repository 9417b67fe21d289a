"""What tasks over whole texts share: rows of one text or one pair, a head over [CLS]."""

import pathlib
from collections.abc import Sequence

import jax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.data.labelled.examples import Text
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.data.labelled.unlabelled import Unlabelled, read_unlabelled
from bert_jax.model import classification
from bert_jax.train.tasks.task import Task


class TextTask(Task):
    """Tasks with one label per text or pair, and a linear head over the pooled [CLS]."""

    head = "classifier"
    init_params = staticmethod(classification.init_params)
    apply = staticmethod(classification.apply)
    pooled = True

    def num_texts(self, cfg: TaskConfig) -> int:
        return len(cfg.text) or 1

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        return read_unlabelled(path, cfg)

    def unlabelled(self, texts: Sequence[Text]) -> LabelledTexts:
        return LabelledTexts(tuple(texts), ())

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        return {"loss": batch.weights.sum()}
