"""Multiple choice: which of several continuations or answers is the right one."""

import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.choices import (
    Choices,
    choice_names,
    encode_choices,
    read_choices,
    read_unlabelled_choices,
)
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.unlabelled import Unlabelled
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model.text_heads import CHOICE
from bert_jax.train.losses import Mean, cross_entropy
from bert_jax.train.tasks.by_counts import ByCounts, means
from bert_jax.train.tasks.intervals import wilson
from bert_jax.train.tasks.task import (
    Judged,
    Metric,
    Task,
    cross_entropies,
    log_softmax,
)


class Choice(Task):
    """One logit for each choice, and a softmax over the choices of an example.

    Source: Devlin et al. 2018, section 4.4.
    """

    name = "choice"
    head = "choice"
    init_params = staticmethod(CHOICE.init_params)
    apply = staticmethod(CHOICE.apply)
    pooled = True
    settings = frozenset({"choices"})
    metrics = (Metric("accuracy", "accuracy", ".1%", interval=wilson),)

    def read(self, path: pathlib.Path | None, cfg: TaskConfig, split: Split) -> Choices:
        return read_choices(path, cfg.of_split(split))

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        return read_unlabelled_choices(path, cfg)

    def num_texts(self, cfg: TaskConfig) -> None:
        """A text and its choices, however many these are."""
        return

    def text_names(self, cfg: TaskConfig, outputs: Sequence[str]) -> tuple[str, ...]:
        """A text, and the choices by their names in the training file."""
        return ("Text", *(f"Choice {name}" for name in outputs))

    def unlabelled(self, texts: Sequence[Text]) -> Choices:
        return Choices(tuple(texts), ())

    def outputs(self, train: Choices) -> tuple[str, ...]:
        """What the training file calls the choices."""
        return choice_names(train)

    def counts(self, examples: Choices, outputs: Sequence[str]) -> str:
        sizes = Counter(examples.sizes.tolist())
        choices = ", ".join(f"{size} ({sizes[size]:,})" for size in sorted(sizes))
        right = Counter(examples.labels)
        said = ", ".join(f"{name} ({right[name]:,})" for name in outputs)
        return f"choices: {choices}; the right one: {said}"

    def encode(
        self,
        tokenizer: Tokenizer,
        examples: Choices,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        return encode_choices(tokenizer, examples, outputs, sequence_length)

    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Mean cross-entropy over the choices of the labelled examples, in nats."""
        loss, accuracy = cross_entropy(logits, batch.labels, batch.weights)
        return {"loss": loss, "accuracy": accuracy}

    def scores(self, judged: Judged) -> dict[str, float]:
        return {
            "accuracy": float(_right(judged).mean()),
            "loss": float(self.example_losses(judged).mean()),
        }

    def by_counts(self, judged: Judged) -> ByCounts:
        right = _right(judged)
        return means({"accuracy": (right, np.ones(right.size))})

    def example_losses(self, judged: Judged) -> np.ndarray:
        """Cross-entropy of each example, in nats."""
        return cross_entropies(judged.logits.astype(np.float64), judged.encoded.labels)

    def constant_scores(self, examples: Choices) -> dict[str, float]:
        """The score of always choosing the same place."""
        [(_, count)] = Counter(examples.labels).most_common(1)
        return {"accuracy": count / len(examples)}

    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
        found = []
        texts, outputs = judged.examples.texts, judged.outputs
        for row, (_, *choices) in zip(judged.logits, texts, strict=True):
            # A file to predict on may have more choices than that of training.
            more = range(len(outputs) + 1, len(choices) + 1)
            names = [*outputs, *(f"choice {number}" for number in more)]
            probs = np.exp(log_softmax(row[: len(choices)].astype(np.float64)))
            best = int(probs.argmax())
            found.append(
                {
                    "label": names[best],
                    "choice": choices[best],
                    "probabilities": dict(zip(names, probs.tolist(), strict=False)),
                }
            )
        return found

    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        best, label = prediction["probabilities"], prediction["label"]
        return f"{label} {best[label]:.1%}  {prediction['choice']}"


def _right(judged: Judged) -> np.ndarray:
    """bool [examples], whether the choice is the right one."""
    return judged.logits.argmax(axis=1) == judged.encoded.labels
