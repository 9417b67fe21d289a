"""The interface of a task, for fine-tuning, scoring, prediction, report and export.

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
from bert_jax.data.labelled.unlabelled import Unlabelled
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.losses import Mean
from bert_jax.train.tasks.sums import Sums


class Metric(NamedTuple):
    """A score of a task."""

    name: str
    """Key of the metric in results."""
    title: str
    """Name of the metric for people."""
    form: str = ".3f"
    """Python's format of the value, such as ".1%"."""
    larger_is_better: bool = True
    interval: Callable[[float, int], tuple[float, float]] | None = None
    """The 95% interval of a value, given the number of held-out examples. `None` where
    that number does not tell how sure the value is."""

    def say(self, value: float) -> str:
        """The value with its title, such as `accuracy 45.4%`."""
        return f"{self.title} {value:{self.form}}"


class Task(abc.ABC):
    """One way of fine-tuning an encoder: its files, head, loss, scores and predictions."""

    name: ClassVar[str]
    """Name of the task in configs and results."""
    head: ClassVar[str]
    """Key of the head in `exchange`, which says how other libraries name it."""
    problem_type: ClassVar[str | None] = None
    """transformers' name of the loss, for tasks whose head is "classifier"."""
    pooled: ClassVar[bool]
    """True: the head reads the pooled [CLS]. False: it reads every token."""
    metrics: ClassVar[tuple[Metric, ...]]
    """Scores of the task. The first decides which of two models is better."""

    # Files.

    @abc.abstractmethod
    def read(self, path: pathlib.Path | None, cfg: TaskConfig, split: Split) -> Any:
        """Reads the labelled examples of a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file, or a line of it, has a wrong format.
        """

    @abc.abstractmethod
    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        """Reads the texts of a file to predict on, which may have labels or not.

        Raises:
            FileNotFoundError, ValueError: as for `read`.
        """

    def sample(self, examples: Any, count: int | None) -> Any:
        """At most `count` of the examples, equal in every run."""
        return examples.sample(count)

    def classes(self, examples: Any) -> Sequence[str] | None:
        """The class of each example, for draws that keep the share of each class.

        Default: `None`, for tasks whose examples do not have one class each.
        """
        return None

    @abc.abstractmethod
    def counts(self, examples: Any, outputs: Sequence[str]) -> str:
        """What the labels are and how often each occurs, in words."""

    def warnings(self, examples: Any) -> list[str]:
        """What looks wrong with the labels. Default: nothing."""
        return []

    def num_texts(self, cfg: TaskConfig) -> int:
        """Number of texts in an example."""
        return 1

    @abc.abstractmethod
    def unlabelled(self, texts: Sequence[Text]) -> Any:
        """Makes examples without labels, for prediction.

        Args:
            texts: one tuple of `num_texts` strings per example.
        """

    @abc.abstractmethod
    def outputs(self, train: Any) -> tuple[str, ...]:
        """The names of the logits, such as the classes in the training examples.

        Raises:
            ValueError: the examples hold nothing to learn.
        """

    @abc.abstractmethod
    def encode(
        self,
        tokenizer: Tokenizer,
        examples: Any,
        outputs: Sequence[str],
        sequence_length: int,
    ) -> EncodedExamples:
        """Rows of token ids, with labels in the form that `loss` needs.

        Raises:
            ValueError: a label is not among `outputs`.
        """

    # The model.

    @staticmethod
    @abc.abstractmethod
    def init_params(cfg: ModelConfig, num_labels: int, key: jax.Array) -> dict:
        """Fresh float32 parameters of the encoder and the head."""

    @staticmethod
    @abc.abstractmethod
    def apply(
        cfg: ModelConfig,
        params: dict,
        batch: ClassifyBatch,
        *,
        compute: ComputeConfig = ComputeConfig(),
        dropout: DropoutConfig = DropoutConfig(),
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 logits, [B, outputs] or [B, T, outputs]."""

    @abc.abstractmethod
    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        """The weights of those means of `loss` whose sum training minimises."""

    @abc.abstractmethod
    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Undivided means by name; those that `loss_weights` names are among them."""

    # Scores and predictions.

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

    def sums(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Any,
        outputs: Sequence[str],
    ) -> Sums | None:
        """The `metrics` of `scores` as functions of sums over the examples.

        Resampling is fast with them. Default: `None`, and every resample is scored by
        `scores`; so is a metric that the sums do not give.
        """
        return None

    @abc.abstractmethod
    def constant_scores(self, examples: Any) -> dict[str, float]:
        """The scores of the best constant answer, the same for all examples."""

    def details(
        self, logits: np.ndarray, encoded: EncodedExamples, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """Further entries for results.json. Default: none."""
        return {}

    def baselines(
        self, train: Examples, held_out: Examples, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """The scores of models without a neural network, by the name of the model.

        Args:
            outputs: `outputs` of all training examples, of which `train` may be a part.

        Raises:
            ValueError: this task has no baselines.
        """
        raise ValueError(
            f"The task {self.name!r} has no baselines here; compare with the score of a "
            "constant answer, which results.json of a fine-tuned run holds."
        )

    @abc.abstractmethod
    def predictions(
        self,
        logits: np.ndarray,
        encoded: EncodedExamples,
        examples: Any,
        outputs: Sequence[str],
    ) -> list[dict[str, Any]]:
        """One JSON object per example, with numbers in full precision."""

    @abc.abstractmethod
    def say(self, prediction: Mapping[str, Any], top: int) -> str:
        """A prediction as text, with at most the `top` most probable answers."""

    def say_line(self, line: Mapping[str, float]) -> str:
        """A line of metrics as text, from training or evaluation."""
        said = [Metric("loss", "loss"), *self.metrics]
        text = "  ".join(m.say(line[m.name]) for m in said if m.name in line)
        if "examples_per_sec" in line:
            text += f"  {line['examples_per_sec']:,.0f} examples/s"
        return text


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis, in the type of the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
