"""Token classification: a tag for each word, such as the names of persons and places."""

import operator
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import IGNORED_LABEL, ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.labels import ordered, say_counts, spelling_warnings
from bert_jax.data.labelled.unlabelled import Unlabelled
from bert_jax.data.labelled.words import (
    TaggedSentences,
    encode_words,
    read_tagged_sentences,
    read_words,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model import token_classification
from bert_jax.train.losses import Mean, cross_entropy
from bert_jax.train.tasks.sums import Sums, ratio
from bert_jax.train.tasks.task import Metric, Task, log_softmax

Entity = tuple[str, int, int]  # type, first word, last word


class Tokens(Task):
    """A tag for each word, predicted at the word's first piece.

    Source: Devlin et al. 2018, section 5.3.
    """

    name = "tokens"
    head = "tokens"
    init_params = staticmethod(token_classification.init_params)
    apply = staticmethod(token_classification.apply)
    pooled = False
    metrics = (
        Metric("f1", "F1"),
        Metric("precision", "precision"),
        Metric("recall", "recall"),
        Metric("accuracy", "accuracy of the words", ".1%"),
    )

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> TaggedSentences:
        cfg.refuse_columns()
        return read_tagged_sentences(path, cfg.encoding)

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        cfg.refuse_columns()
        return read_words(path, cfg, outputs)

    def unlabelled(self, texts: Sequence[Text]) -> TaggedSentences:
        """Makes examples without tags. Blanks separate the words of a text."""
        words = tuple(tuple(" ".join(text).split()) for text in texts)
        return TaggedSentences(words, None)

    def outputs(self, train: TaggedSentences) -> tuple[str, ...]:
        return ordered(_all_tags(train), "tag")

    def counts(self, examples: TaggedSentences, outputs: Sequence[str]) -> str:
        tags = _all_tags(examples)
        return f"{len(tags):,} words with tags: {say_counts(tags, outputs)}"

    def warnings(self, examples: TaggedSentences) -> list[str]:
        return spelling_warnings(_all_tags(examples))

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: TaggedSentences,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        return encode_words(tokenizer, examples, outputs, sequence_length)

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        return {"loss": _label_weights(batch).sum()}

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Mean cross-entropy of the labelled tokens, in nats. Labels are int32 [B, T]."""
        labels = jnp.where(batch.labels == IGNORED_LABEL, 0, batch.labels)
        loss, accuracy = cross_entropy(logits, labels, _label_weights(batch))
        return {"loss": loss, "accuracy": accuracy}

    def scores(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: TaggedSentences,
        outputs: Sequence[str],
    ) -> dict[str, float]:
        """Precision, recall and F1 of whole entities, and the accuracy of the words.

        An entity counts as right if its type and both of its ends are right.

        Source: Tjong Kim Sang & De Meulder 2003 (CoNLL-2003), the rules of conlleval.
        """
        assert examples.tags is not None
        labelled = encoded.labels != IGNORED_LABEL
        labels = encoded.labels[labelled]
        found = _tags(logits, encoded, len(examples), outputs)
        log_probs = log_softmax(logits[labelled].astype(np.float64))
        return {
            **entity_scores(examples.tags, found),
            "accuracy": float((logits[labelled].argmax(axis=1) == labels).mean()),
            "loss": float(-log_probs[np.arange(labels.size), labels].mean()),
        }

    def sums(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: TaggedSentences,
        outputs: Sequence[str],
    ) -> Sums:
        assert examples.tags is not None
        found = _tags(logits, encoded, len(examples), outputs)
        values = np.zeros((len(examples), 5))
        for row, true, said in zip(values, examples.tags, found, strict=True):
            of_true, of_said = set(entities(true)), set(entities(said))
            row[:3] = len(of_true & of_said), len(of_true), len(of_said)
            row[3:] = sum(map(operator.eq, true, said)), len(true)

        def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
            right, true, said, right_words, words = np.moveaxis(sums, -1, 0)
            return {
                "precision": ratio(right, said),
                "recall": ratio(right, true),
                "f1": ratio(2.0 * right, true + said),
                "accuracy": right_words / words,
            }

        return Sums(values, scores)

    def constant_scores(self, examples: TaggedSentences) -> dict[str, float]:
        tags = np.array(_all_tags(examples))
        _, counts = np.unique(tags, return_counts=True)
        return {"accuracy": float(counts.max() / tags.size)}

    def predictions(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: TaggedSentences,
        outputs: Sequence[str],
    ) -> list[dict[str, Any]]:
        tags = _tags(logits, encoded, len(examples), outputs)
        return [
            {
                "words": list(words),
                "tags": list(of_words),
                "entities": [
                    {"type": kind, "text": " ".join(words[first : last + 1])}
                    for kind, first, last in entities(of_words)
                ],
            }
            for words, of_words in zip(examples.words, tags, strict=True)
        ]

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        pairs = zip(prediction["words"], prediction["tags"], strict=True)
        return " ".join(f"{word}/{tag}" for word, tag in pairs)


def _all_tags(examples: TaggedSentences) -> list[str]:
    return [tag for sentence in examples.tags or () for tag in sentence]


def _label_weights(batch: ClassifyBatch) -> jax.Array:
    """float32 [B, T], 1 on labelled tokens of rows that count, else 0."""
    labelled = (batch.labels != IGNORED_LABEL).astype(jnp.float32)
    return labelled * batch.weights[:, None]


def _tags(
    logits: np.ndarray,
    encoded: EncodedExamples,
    num_examples: int,
    names: Sequence[str],
) -> list[list[str]]:
    """The most probable tag of every word, for each sentence."""
    assert encoded.word is not None
    tags: list[list[str]] = [[] for _ in range(num_examples)]
    best = logits.argmax(axis=-1)
    # The rows of a sentence, and the words in them, keep their order.
    for row, place in np.argwhere(encoded.word >= 0):
        tags[encoded.example[row]].append(names[int(best[row, place])])
    return tags


def entity_scores(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 over all entities. Without entities they are 0."""

    def all_of(sentences: Sequence[Sequence[str]]) -> set[tuple[int, Entity]]:
        return {
            (n, entity) for n, tags in enumerate(sentences) for entity in entities(tags)
        }

    true, said = all_of(truth), all_of(found)
    right = len(true & said)
    precision = right / len(said) if said else 0.0
    recall = right / len(true) if true else 0.0
    total = precision + recall
    f1 = 2.0 * precision * recall / total if total else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of a sentence, tagged in BIO, IOB1, IOBES or BILOU.

    The rules are those of conlleval. An entity begins at B, S or U, at any letter after O
    or after another type, and after an entity that E, L, S or U has ended.
    """
    first, kind, ended = 0, "", True
    for number, tag in enumerate([*tags, "O"]):
        letter, dash, of = tag.partition("-")
        if not dash:  # a type without a letter, or O
            letter, of = "I", tag
        if kind and (ended or of != kind or letter in "BSU"):
            yield kind, first, number - 1
            kind = ""
        if of != "O" and not kind:
            first, kind = number, of
        ended = letter in "ELSU"
