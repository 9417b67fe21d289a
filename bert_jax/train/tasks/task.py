"""What fine-tuning, evaluation, prediction, baselines, report and export ask of a task.

Shape suffixes: B rows, T tokens.
"""

import abc
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig, TaskConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Examples, Text
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.losses import Mean


class Metric(NamedTuple):
    """A number that a task is judged by."""

    name: str
    """Its key in results."""
    title: str
    """What people call it."""
    form: str = ".3f"
    """How it is written: a format of Python's, such as ".1%"."""
    larger_is_better: bool = True
    interval: Callable[[float, int], tuple[float, float]] | None = None
    """The 95% interval of a value, given the number of held-out examples. `None` where
    that number does not tell how sure the value is."""

    def say(self, value: float) -> str:
        """Such as `accuracy 45.4%`."""
        return f"{self.title} {value:{self.form}}"


class Task(abc.ABC):
    """One way of fine-tuning an encoder: its files, head, loss, scores and predictions."""

    name: ClassVar[str]
    """In configs and results."""
    head: ClassVar[str]
    """The head of `exchange` that its models have in other libraries."""
    pooled: ClassVar[bool]
    """Whether the head reads the pooled [CLS]; else it reads every token."""
    metrics: ClassVar[tuple[Metric, ...]]
    """The first one decides which of two models is better."""

    # Files.

    @abc.abstractmethod
    def read(self, path: pathlib.Path | None, cfg: TaskConfig, split: Split) -> Any:
        """The labelled examples of a file.

        Raises:
            ValueError, FileNotFoundError: the file, or a line of it, is not as it must be.
        """

    def num_texts(self, cfg: TaskConfig) -> int:
        """How many texts an example has."""
        return 1

    @abc.abstractmethod
    def unlabelled(self, texts: Sequence[Text]) -> Any:
        """Examples whose labels are to be found out.

        Args:
            texts: of `num_texts` parts each.
        """

    @abc.abstractmethod
    def outputs(self, train: Any) -> tuple[str, ...]:
        """What the logits are called, by the examples to train on.

        Raises:
            ValueError: there is nothing to learn in them.
        """

    @abc.abstractmethod
    def encode(
        self,
        tokenizer: Tokenizer,
        examples: Any,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        """The rows of ids, with labels as `loss` takes them.

        Raises:
            ValueError: a label is not among `outputs`.
        """

    # The model.

    @abc.abstractmethod
    def init_params(
        self, model: ModelConfig, num_outputs: int, key: jax.Array
    ) -> dict[str, Any]:
        """Fresh float32 parameters, of the encoder and the head."""

    @abc.abstractmethod
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
        """Float32 logits, [B, outputs] or [B, T, outputs]."""

    @abc.abstractmethod
    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        """The weight of each mean of `loss` that adds to what is minimised."""

    @abc.abstractmethod
    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Undivided means, those of `loss_weights` among them."""

    # What it is worth, and what it says.

    @abc.abstractmethod
    def scores(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Any,
        outputs: Sequence[str],
    ) -> dict[str, float]:
        """The task's `metrics`, and the mean loss as "loss".

        Args:
            logits: float32 [rows, ...], as `apply` gave them.
        """

    @abc.abstractmethod
    def constant_scores(self, examples: Any) -> dict[str, float]:
        """The best that one answer for all examples could score."""

    def details(
        self, logits: np.ndarray, encoded: EncodedExamples, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """What the results tell beside the scores; nothing by default."""
        return {}

    def baselines(self, train: Examples, held_out: Examples) -> dict[str, Any]:
        """Scores, by name, of models without a neural network.

        Raises:
            ValueError: this task has none.
        """
        raise ValueError(
            f"The task {self.name!r} has no baselines here; the results of a fine-tuned "
            "run name the score of a constant answer."
        )

    @abc.abstractmethod
    def predictions(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Any,
        outputs: Sequence[str],
    ) -> list[dict[str, Any]]:
        """One JSON object an example, in full precision."""

    @abc.abstractmethod
    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        """A prediction in words; of several answers the `top` likeliest."""

    def say_line(self, line: Mapping[str, float]) -> str:
        """A line of metrics, of training or of judging, in words."""
        said = [Metric("loss", "loss"), *self.metrics]
        text = "  ".join(m.say(line[m.name]) for m in said if m.name in line)
        if "examples_per_sec" in line:
            text += f"  {line['examples_per_sec']:,.0f} examples/s"
        return text


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in the type of the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
