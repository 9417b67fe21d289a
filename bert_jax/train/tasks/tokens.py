"""Token classification: a tag for each word, such as the names of persons and places."""

import math
import operator
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import IGNORED_LABEL, ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.checks import require
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.labels import ordered, say_counts, spelling_warnings
from bert_jax.data.labelled.tags import entities, form_warnings, scheme_of, style_of
from bert_jax.data.labelled.unlabelled import Unlabelled
from bert_jax.data.labelled.word_rows import encode_words
from bert_jax.data.labelled.words import (
    TaggedSentences,
    read_tagged_sentences,
    read_words,
    split_texts,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model.text_heads import TOKENS
from bert_jax.train.losses import Mean, cross_entropy
from bert_jax.train.tasks.by_counts import ByCounts, of_sums, ratio, scores_of_all
from bert_jax.train.tasks.entity_scores import entity_scores, entity_table
from bert_jax.train.tasks.task import (
    Judged,
    Metric,
    Task,
    cross_entropies,
    log_softmax,
)

# Fields of `TaskConfig` that name columns of words and tags.
_COLUMNS = ("text", "label", "dev_text", "dev_label")


class Tokens(Task):
    """A tag for each word, predicted at the word's first piece.

    Source: Devlin et al. 2018, section 5.3.
    """

    name = "tokens"
    head = "tokens"
    init_params = staticmethod(TOKENS.init_params)
    apply = staticmethod(TOKENS.apply)
    pooled = False
    settings = frozenset({"stride"})
    metrics = (
        Metric("f1", "F1"),
        Metric("precision", "precision"),
        Metric("recall", "recall"),
        Metric("accuracy", "accuracy of the words", ".1%"),
    )

    def read(
        self, path: pathlib.Path | None, cfg: TaskConfig, split: Split
    ) -> TaggedSentences:
        cfg.refuse_columns(*_COLUMNS)
        cfg = cfg.of_split(split)
        require(
            len(cfg.text) < 2,
            f"TaskConfig.text={cfg.text} names two columns; --task tokens takes the column "
            "of the words alone.",
        )
        return read_tagged_sentences(path, cfg)

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        return read_words(path, cfg, outputs)

    def unlabelled(self, texts: Sequence[Text]) -> TaggedSentences:
        return split_texts([text for (text,) in texts])

    def outputs(self, train: TaggedSentences) -> tuple[str, ...]:
        return ordered(_all_tags(train), "tag", train.reading.path)

    def counts(self, examples: TaggedSentences, outputs: Sequence[str]) -> str:
        tags = _all_tags(examples)
        scheme = scheme_of(examples.tags or ())
        return f"{len(tags):,} words, tags in {scheme}: {say_counts(tags, outputs)}"

    def warnings(self, examples: TaggedSentences) -> list[str]:
        tags = _all_tags(examples)
        return form_warnings(tags) + spelling_warnings(tags)

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: TaggedSentences,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        return encode_words(
            tokenizer, examples, outputs, sequence_length, self.cfg.stride
        )

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        return {"loss": _label_weights(batch).sum()}

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Mean cross-entropy of the labelled tokens, in nats. Labels are int32 [B, T]."""
        labels = jnp.where(batch.labels == IGNORED_LABEL, 0, batch.labels)
        loss, accuracy = cross_entropy(logits, labels, _label_weights(batch))
        return {"loss": loss, "accuracy": accuracy}

    def fresh_loss(self, outputs: Sequence[str]) -> float:
        return math.log(len(outputs))

    def scores(self, judged: Judged) -> dict[str, float]:
        """Precision, recall and F1 of whole entities, and the accuracy of the words.

        Where tags mark no entities, as parts of speech, each word counts as one, so that
        all four are equal.
        """
        labelled = judged.encoded.labels != IGNORED_LABEL
        logits = judged.logits[labelled].astype(np.float64)
        losses = cross_entropies(logits, judged.encoded.labels[labelled])
        return {
            **scores_of_all(self.by_counts(judged), len(judged.examples)),
            "loss": float(losses.mean()),
        }

    def by_counts(self, judged: Judged) -> ByCounts:
        tags, found, style = _tags_of(judged)
        values = np.zeros((len(judged.examples), 5))
        for row, true, said in zip(values, tags, found, strict=True):
            of_true, of_said = set(entities(true, style)), set(entities(said, style))
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

        return of_sums(values, scores)

    def details(self, judged: Judged) -> dict[str, Any]:
        """Scores of each type of entity."""
        return {"per_label": entity_table(*_tags_of(judged))}

    def example_losses(self, judged: Judged) -> np.ndarray:
        """Mean cross-entropy of the words of each sentence, in nats."""
        encoded = judged.encoded
        labels_BT = np.where(encoded.labels == IGNORED_LABEL, 0, encoded.labels)
        log_probs = log_softmax(judged.logits.astype(np.float64))
        chosen = np.take_along_axis(log_probs, labels_BT[..., None], axis=2)
        return np.array([-np.mean(x) for x in _by_word(chosen[..., 0], encoded)])

    def constant_scores(self, examples: TaggedSentences) -> dict[str, float]:
        """Those of giving every word the most frequent tag."""
        tags = _all_tags(examples)
        names, counts = np.unique(np.array(tags), return_counts=True)
        most = str(names[counts.argmax()])
        assert examples.tags is not None
        found = [[most] * len(sentence) for sentence in examples.tags]
        scores = entity_scores(examples.tags, found, style_of(tags))
        return {"f1": scores["f1"], "accuracy": float(counts.max() / len(tags))}

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        """Words, tags, and entities with their characters in the text.

        The probability of an entity is that all of its tags are right, if they are right
        independently of each other: the product of theirs.
        """
        examples, tags = judged.examples, _names(judged)
        best = np.exp(log_softmax(judged.logits.astype(np.float64)).max(axis=-1))
        shares = _by_word(best, judged.encoded)
        style = style_of(judged.outputs)
        found = []
        for number, (of_words, probs) in enumerate(zip(tags, shares, strict=True)):
            text, places = examples.sentence(number)
            marked = []
            for kind, first, last in entities(of_words, style):
                start, end = places[first][0], places[last][1]
                share = math.prod(probs[first : last + 1])
                marked.append(
                    {
                        "type": kind,
                        "text": text[start:end],
                        "start": start,
                        "end": end,
                        "probability": share,
                    }
                )
            found.append(
                {
                    "words": list(examples.words[number]),
                    "tags": of_words,
                    "probabilities": probs,
                    "entities": marked,
                }
            )
        return found

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        marked = prediction["entities"]
        if marked and [x["type"] for x in marked] == prediction["tags"]:
            # Each word stands for itself.
            return " ".join(f"{x['text']}/{x['type']}" for x in marked)
        found = [f"{x['type']} {x['text']!r} {x['probability']:.1%}" for x in marked]
        return ", ".join(found) or "no entity"


def _all_tags(examples: TaggedSentences) -> list[str]:
    return [tag for sentence in examples.tags or () for tag in sentence]


def _label_weights(batch: ClassifyBatch) -> jax.Array:
    """float32 [B, T], 1 on labelled tokens of rows that count, else 0."""
    labelled = (batch.labels != IGNORED_LABEL).astype(jnp.float32)
    return labelled * batch.weights[:, None]


def _by_word(values_BT: np.ndarray, encoded: EncodedExamples) -> list[list[Any]]:
    """The value of each word, for each sentence, as Python's numbers."""
    assert encoded.word is not None
    # The rows of a sentence, and the words in them, keep their order.
    found: list[list[Any]] = [[] for _ in range(int(encoded.example[-1]) + 1)]
    for row, number in enumerate(encoded.example):
        found[number] += values_BT[row, encoded.word[row] >= 0].tolist()
    return found


def _names(judged: Judged) -> list[list[str]]:
    """The predicted tag of every word, for each sentence."""
    numbers = _by_word(judged.logits.argmax(axis=-1), judged.encoded)
    return [[judged.outputs[n] for n in of_words] for of_words in numbers]


def _tags_of(
    judged: Judged,
) -> tuple[Sequence[Sequence[str]], list[list[str]], Any]:
    """The true tags, the predicted ones, and how they mark entities."""
    assert judged.examples.tags is not None
    return judged.examples.tags, _names(judged), style_of(judged.outputs)
