"""Sentence embeddings: texts that belong together get vectors that point the same way.

Shape suffixes: B examples, G texts of an example, D hidden, K candidates.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig, TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.text_pairs import (
    TextPairs,
    encode_text_pairs,
    read_text_pairs,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model import sentence_embedding
from bert_jax.model.encoder import init_encoder
from bert_jax.model.rows import MASKED_SCORE
from bert_jax.model.sentence_embedding import Pooling
from bert_jax.train.losses import Mean, cross_entropy, weighted
from bert_jax.train.tasks.by_counts import ByCounts, correlations, means
from bert_jax.train.tasks.intervals import fisher, wilson
from bert_jax.train.tasks.regression import correlation_scores
from bert_jax.train.tasks.task import Judged, Metric, Task, log_softmax

_SCALE = 20.0  # of the cosines in a softmax: a temperature of 0.05, as in SimCSE
_ANCHORS_AT_ONCE = 1_000
_SMALLEST_NORM = 1e-6


class Embeddings(Task):
    """A vector for each text, learned from pairs; the head has no parameters.

    Sources: Reimers & Gurevych 2019, sections 3 and 4; Henderson et al. 2017, section 4.4,
    and Gao et al. 2021 for negatives from the batch.
    """

    name = "embeddings"
    pooled = False
    settings = frozenset({"pairs", "negative", "score_range", "pooling"})
    metrics = (
        Metric("spearman", "Spearman"),
        Metric("pearson", "Pearson", interval=fisher),
        Metric("accuracy", "nearest is right", ".1%", interval=wilson),
        Metric("mrr", "mean reciprocal rank"),
    )

    @property
    def head(self) -> str:  # type: ignore[override]
        return f"{self.pooling}_vector"

    @property
    def pooling(self) -> Pooling:
        return self.cfg.task.pooling or "mean"

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> TextPairs:
        return read_text_pairs(path, cfg.of_split(split), split)

    def num_texts(self, cfg: TaskConfig) -> int:
        """2: predictions are similarities of pairs."""
        return 2

    def unlabelled(self, texts: Sequence[Text]) -> TextPairs:
        return TextPairs(tuple(texts), None)

    def outputs(self, train: TextPairs) -> tuple[str, ...]:
        """None: the numbers of a vector have no names."""
        return self.fixed_outputs

    def counts(self, examples: TextPairs, outputs: Sequence[str]) -> str:
        given = examples.similarities
        if given is not None:
            return (
                "scored pairs: the cosine of both vectors learns the score; cosines from "
                f"{min(given):.3g} to {max(given):.3g}, mean {np.mean(given):.3g}"
            )
        negative = ", and than its own third text" if len(examples.texts[0]) > 2 else ""
        return (
            "matching pairs: the second text learns to be nearer to the first one than "
            f"the second texts of all other rows of the batch{negative}"
        )

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: TextPairs,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        return encode_text_pairs(tokenizer, examples, sequence_length)

    @staticmethod
    def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> dict:
        return init_encoder(cfg, key)

    def apply(  # type: ignore[override]  # the pooling is a setting of the object
        self,
        cfg: ModelConfig,
        params: dict,
        batch: ClassifyBatch,
        *,
        compute: ComputeConfig = ComputeConfig(),
        dropout: DropoutConfig = DropoutConfig(),
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 vectors, [B, G, D], or [B, D] for texts that are no groups."""
        return sentence_embedding.apply(
            cfg,
            params,
            batch,
            pooling=self.pooling,
            compute=compute,
            dropout=dropout,
            key=key,
        )

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """The loss of scored pairs if the labels are float32, else of matching ones.

        Scored: the mean squared difference of cosine and label. Matching: the mean
        cross-entropy, in nats, of choosing the second text of an example, by 20 times its
        cosine to the first text, among the second and third texts of all examples of the
        batch. On a mesh that is the global batch. A batch in several micro-batches has the
        examples of each micro-batch for itself.

        Args:
            logits: float32 [B, G, D], vectors of the texts.
            batch: labels are float32 [B], or int32 [B], which are not read.
        """
        squares_BG1 = jnp.square(logits).sum(axis=-1, keepdims=True)
        # Not the norm itself: it has no gradient at 0.
        unit_BGD = logits * jax.lax.rsqrt(jnp.maximum(squares_BG1, _SMALLEST_NORM**2))
        if jnp.issubdtype(batch.labels.dtype, jnp.floating):
            cosines_B = (unit_BGD[:, 0] * unit_BGD[:, 1]).sum(axis=-1)
            return {
                "loss": weighted(jnp.square(cosines_B - batch.labels), batch.weights)
            }
        num_examples, num_texts = unit_BGD.shape[:2]
        # All second texts, then all third ones.
        candidates_KD = jnp.concatenate([unit_BGD[:, n] for n in range(1, num_texts)])
        real_K = jnp.tile(batch.weights > 0, num_texts - 1)
        scores_BK = _SCALE * (unit_BGD[:, 0] @ candidates_KD.T)
        scores_BK = jnp.where(real_K[None, :], scores_BK, MASKED_SCORE)
        loss, accuracy = cross_entropy(
            scores_BK, jnp.arange(num_examples), batch.weights
        )
        return {"loss": loss, "batch_accuracy": accuracy}

    def scores(self, judged: Judged) -> dict[str, float]:
        if judged.examples.similarities is None:
            found = retrieval(judged.logits, judged.examples.texts)
            return {name: float(values.mean()) for name, values in found.items()}
        return {
            **correlation_scores(*_cosines_and_labels(judged)),
            "loss": float(self.example_losses(judged).mean()),
        }

    def scores_alone(self, examples: TextPairs) -> bool:
        """Not of matching pairs: vectors of two encoders have no cosine that means much."""
        return examples.similarities is not None

    def by_counts(self, judged: Judged) -> ByCounts:
        """Resamples of matching pairs have the candidates of all examples."""
        if judged.examples.similarities is not None:
            return correlations(*_cosines_and_labels(judged))
        found = retrieval(judged.logits, judged.examples.texts)
        all_of = np.ones(len(judged.examples))
        return means({name: (found[name], all_of) for name in ("accuracy", "mrr")})

    def example_losses(self, judged: Judged) -> np.ndarray:
        """The squared difference of cosine and score, or the loss of `retrieval`."""
        if judged.examples.similarities is None:
            return retrieval(judged.logits, judged.examples.texts)["loss"]
        return np.square(np.subtract(*_cosines_and_labels(judged)))

    def constant_scores(self, examples: TextPairs) -> dict[str, float]:
        """The scores of one vector for all texts."""
        if examples.similarities is not None:
            return {"spearman": 0.0, "pearson": 0.0}
        return {"accuracy": 1.0 / len(_candidates(examples.texts)[0])}

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        return [{"similarity": float(x)} for x in cosines_of(judged.logits)]

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        return f"similarity {prediction['similarity']:.3f}"

    def say_line(self, line: Mapping[str, float]) -> str:
        text = super().say_line(line)
        if "batch_accuracy" in line:
            text += f"  nearest of the batch is right {line['batch_accuracy']:.1%}"
        return text


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 over the last axis, in their type; those of length 0 stay."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, _SMALLEST_NORM)


def cosines_of(vectors: np.ndarray) -> np.ndarray:
    """The cosine of the first two vectors of each group, float64 [groups].

    Args:
        vectors: float32 [groups, G, D].
    """
    unit = normalised(vectors[:, :2].astype(np.float64))
    return (unit[:, 0] * unit[:, 1]).sum(axis=-1)


def _cosines_and_labels(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """The cosine and the score of each scored pair, float64 [examples]."""
    return cosines_of(judged.logits), judged.encoded.labels.astype(np.float64)


def retrieval(vectors: np.ndarray, texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """How well the first text of each group finds its second one among those of all.

    `accuracy` is 1 where the nearest candidate is the right one, else 0; `mrr` is 1
    divided by the rank of the right one. Candidates are all second and third texts, each
    once. Among n equal cosines, the right one has the middle rank and counts 1 / n.
    `loss` is that of training, with all candidates in one batch.

    Args:
        vectors: float32 [groups, G, D], of `texts`.

    Returns:
        float64 [groups] for each of these names.
    """
    unit = normalised(vectors)
    places, right = _candidates(texts)
    candidates_KD = unit[places[:, 0], places[:, 1]]
    hits, ranks, losses = [], [], []
    for start in range(0, len(texts), _ANCHORS_AT_ONCE):
        part = slice(start, start + _ANCHORS_AT_ONCE)
        cosines = unit[part, 0] @ candidates_KD.T
        own = np.take_along_axis(cosines, right[part, None], axis=1)
        above, equal = (cosines > own).sum(axis=1), (cosines == own).sum(axis=1)
        hits.append((above == 0) / equal)
        ranks.append(1.0 / (above + (equal + 1) / 2))
        log_probs = log_softmax(_SCALE * cosines.astype(np.float64))
        losses.append(-np.take_along_axis(log_probs, right[part, None], axis=1)[:, 0])
    return {
        name: np.concatenate(values)
        for name, values in (("accuracy", hits), ("mrr", ranks), ("loss", losses))
    }


def _candidates(texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
    """Where each candidate stands first, int [K, 2] (group, place), and the right ones.

    The number of the right candidate of each group is int [groups].
    """
    number_of: dict[str, int] = {}
    places: list[tuple[int, int]] = []
    for group, (_, *others) in enumerate(texts):
        for place, text in enumerate(others, 1):
            if text not in number_of:
                number_of[text] = len(places)
                places.append((group, place))
    right = [number_of[second] for _, second, *_ in texts]
    return np.array(places), np.array(right)
