"""What tasks over whole texts share: rows of one text or one pair, a head over [CLS], and
the features of their baselines.

Shape suffixes: E examples, C outputs.
"""

import abc
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from bert_jax.config import FinetuneConfig, TaskConfig
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.texts import LabelledTexts, encode_texts
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model.text_heads import CLASSIFIER
from bert_jax.train.tasks.task import Judged, Task


class TextTask(Task):
    """Tasks with labels for each text or pair, and a linear head over the pooled [CLS]."""

    head = "classifier"
    init_params = staticmethod(CLASSIFIER.init_params)
    apply = staticmethod(CLASSIFIER.apply)
    pooled = True
    settings = frozenset({"long_texts", "stride"})

    def configured(self, cfg: FinetuneConfig) -> Self:
        if cfg.stride is not None and cfg.long_texts != "windows":
            raise ValueError(
                f"FinetuneConfig.stride={cfg.stride} would be ignored: long_texts="
                f"{cfg.long_texts!r} makes no windows. Pass --long-texts windows."
            )
        return super().configured(cfg)

    def num_texts(self, cfg: TaskConfig) -> int:
        return len(cfg.text) or 1

    def unlabelled(self, texts: Sequence[Text]) -> LabelledTexts:
        return LabelledTexts(tuple(texts), ())

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: LabelledTexts,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        """Rows of the texts, several of a long one if the run has windows."""
        labels = np.zeros(len(examples), np.int32)
        if examples.labels:
            labels = self.targets(examples, outputs)
        return encode_texts(
            tokenizer,
            examples.texts,
            labels,
            sequence_length,
            self.cfg.long_texts,
            self.cfg.stride,
        )

    @abc.abstractmethod
    def targets(self, examples: LabelledTexts, outputs: Sequence[str]) -> np.ndarray:
        """The labels as `loss` takes them, int32 or float32 [examples, ...].

        Raises:
            ValueError: a label is not among `outputs`.
        """


def of_examples(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of whole examples: of several rows, the mean of their logits.

    Args:
        judged: logits are float32 [rows, C]; the rows of an example stand behind each
            other.

    Returns:
        float32 [E, C], and the labels [E, ...].
    """
    logits, encoded = judged.logits, judged.encoded
    if not len(encoded):
        return logits, encoded.labels
    firsts = np.flatnonzero(np.diff(encoded.example, prepend=-1))
    counts = np.diff(firsts, append=len(encoded))
    sums_EC = np.add.reduceat(logits.astype(np.float64), firsts, axis=0)
    return (sums_EC / counts[:, None]).astype(logits.dtype), encoded.labels[firsts]


def tfidf(train: LabelledTexts, held_out: LabelledTexts) -> tuple[Any, Any]:
    """Sparse TF-IDF features of both, fitted on `train`, with sublinear counts.

    The two texts of a pair are one text here.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    parts = [[" ".join(text) for text in part.texts] for part in (train, held_out)]
    return vectorizer.fit_transform(parts[0]), vectorizer.transform(parts[1])
