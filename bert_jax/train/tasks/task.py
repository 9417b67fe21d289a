"""The interface of a task, for fine-tuning, scoring, prediction, report and export.

Shape suffixes: B rows, T tokens.
"""

import abc
import copy
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    FinetuneConfig,
    ModelConfig,
    TaskConfig,
)
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.examples import EncodedExamples, Examples, Text
from bert_jax.data.labelled.unlabelled import Unlabelled, read_unlabelled
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.losses import Mean
from bert_jax.train.tasks.by_counts import ByCounts

_OF_SOME_TASKS = frozenset(
    {
        *("long_texts", "stride", "max_answer_tokens"),
        *("class_weights", "label_smoothing"),
        *("choices", "pairs", "negative", "score_range", "pooling"),
    }
)


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
        return f"{self.title} {self.form_of(value)}"

    def form_of(self, value: float) -> str:
        """The value alone."""
        return f"{value:{self.form}}"


class Judged(NamedTuple):
    """Examples, and what a model gave for them."""

    logits: np.ndarray
    """float32 [rows, ...], as `Task.apply` gives them."""
    encoded: EncodedExamples
    """The rows, as the run makes them: two runs may cut long texts at different places."""
    examples: Any
    outputs: Sequence[str]
    """Names of the logits."""


class Task(abc.ABC):
    """One way of fine-tuning an encoder: its files, head, loss, scores and predictions."""

    name: str
    """Name of the task in configs and results."""
    head: ClassVar[str]
    """Key of the head in `exchange`, which says how other libraries name it."""
    problem_type: ClassVar[str | None] = None
    """transformers' name of the loss, for tasks whose head is "classifier"."""
    pooled: ClassVar[bool]
    """True: the head reads the pooled [CLS]. False: it reads every token."""
    metrics: tuple[Metric, ...]
    """Scores of the task, the deciding one first; see `deciding`."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Which of `_OF_SOME_TASKS`, the settings that some tasks do not have, this one has."""
    fixed_outputs: ClassVar[tuple[str, ...]] = ()
    """Names of the logits, where no file decides them."""
    fits: ClassVar[tuple[str, ...]] = ()
    """Names of what `fit` may find. They are names of scores too, so that each evaluation
    of a run keeps what was fitted to it."""
    cfg: FinetuneConfig = FinetuneConfig()
    """The settings of the run; `configured` sets them."""
    fitted: Mapping[str, float] = MappingProxyType({})
    """What `fit` found; `with_fitted` sets it."""

    def configured(self, cfg: FinetuneConfig) -> Self:
        """This task with the settings of a run.

        Raises:
            ValueError: a setting would be ignored.
        """
        for name in sorted(_OF_SOME_TASKS - self.settings):
            holder = cfg.task if hasattr(cfg.task, name) else cfg
            value = getattr(holder, name)
            if value != getattr(type(holder)(), name):
                raise ValueError(
                    f"{type(holder).__name__}.{name}={value!r} would be ignored: --task "
                    f"{self.name} has no such setting. Leave it out."
                )
        made = copy.copy(self)
        made.cfg = cfg
        return made

    def with_fitted(self, fitted: Mapping[str, float]) -> Self:
        """This task with what `fit` found on the held-out examples of a run."""
        made = copy.copy(self)
        made.fitted = fitted
        return made

    def fitted_to(self, judged: Judged) -> Self:
        """This task with what `fit` finds on these examples."""
        return self.with_fitted(self.fit(judged))

    def deciding(self, measured: Collection[str]) -> Metric:
        """The first of `metrics` that was measured: it says which model is better.

        Args:
            measured: names of the scores that there are.
        """
        found = (metric for metric in self.metrics if metric.name in measured)
        return next(found, self.metrics[0])

    def fit(self, judged: Judged) -> dict[str, float]:
        """What scores and predictions need and held-out examples decide.

        Such as a threshold. results.json keeps it as "fitted". Default: nothing.
        """
        return {}

    # Files.

    def settled(self, cfg: TaskConfig) -> TaskConfig:
        """The config with what this task knows of its files. Default: as it is.

        Raises:
            ValueError: no files are given, and none are known.
        """
        return cfg

    @abc.abstractmethod
    def read(self, path: pathlib.Path | None, cfg: TaskConfig, split: Split) -> Any:
        """Reads the labelled examples of a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file, or a line of it, has a wrong format.
        """

    def read_unlabelled(
        self, path: pathlib.Path, cfg: TaskConfig, outputs: Sequence[str]
    ) -> Unlabelled:
        """Reads the texts of a file to predict on, which may have labels or not.

        Default: the columns of whole texts.

        Raises:
            FileNotFoundError, ValueError: as for `read`.
        """
        return read_unlabelled(path, cfg)

    def classes(self, examples: Any) -> Sequence[str] | None:
        """The class of each example, so that random choices give each class its share.

        Default: none, and choices do not look at labels.
        """
        return None

    @abc.abstractmethod
    def counts(self, examples: Any, outputs: Sequence[str]) -> str:
        """What the labels are and how often each occurs, in words."""

    def warnings(self, examples: Any) -> list[str]:
        """What looks wrong with the labels. Default: nothing."""
        return []

    def num_texts(self, cfg: TaskConfig) -> int | None:
        """Number of texts in an example; `None` if examples differ in it."""
        return 1

    def text_names(self, cfg: TaskConfig, outputs: Sequence[str]) -> tuple[str, ...]:
        """What people call each text of an example. Default: numbered where there are two."""
        if (self.num_texts(cfg) or 1) == 1:
            return ("Text",)
        return ("Text 1", "Text 2")

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

    def example_weights(
        self, examples: Any, outputs: Sequence[str]
    ) -> np.ndarray | None:
        """How much each example counts in the loss, float32 [examples]. Default: 1.

        Raises:
            ValueError: the settings weigh something that is not there.
        """
        return None

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

    def loss_weights(self, batch: ClassifyBatch) -> dict[str, jax.Array]:
        """The weights of those means of `loss` whose sum training minimises.

        Default: "loss" alone, with the weights of the rows.
        """
        return {"loss": batch.weights.sum()}

    @abc.abstractmethod
    def loss(self, logits: jax.Array, batch: ClassifyBatch) -> dict[str, Mean]:
        """Undivided means by name; those that `loss_weights` names are among them."""

    def fresh_loss(self, outputs: Sequence[str]) -> float | None:
        """The loss of equal probabilities, which a fresh head nearly has. Default: `None`,
        where it depends on more than the number of outputs."""
        return None

    # Scores and predictions.

    @abc.abstractmethod
    def scores(self, judged: Judged) -> dict[str, float]:
        """The task's `metrics`, and the mean loss as "loss"."""

    @abc.abstractmethod
    def by_counts(self, judged: Judged) -> ByCounts:
        """The `metrics` of `scores`, as a function of how often each example counts."""

    @abc.abstractmethod
    def constant_scores(self, examples: Any) -> dict[str, float]:
        """The scores of the best constant answer, the same for all examples."""

    def scores_alone(self, examples: Any) -> bool:
        """Whether the logits of an example are judged without those of other examples, so
        that answers of several models can be judged together. Default: they are."""
        return True

    def details(self, judged: Judged) -> dict[str, Any]:
        """Further entries for results.json. Default: none."""
        return {}

    @abc.abstractmethod
    def example_losses(self, judged: Judged) -> np.ndarray:
        """float64 [examples], how far each prediction is from the truth."""

    def baselines(
        self, train: Examples, held_out: Examples, outputs: Sequence[str]
    ) -> dict[str, Any]:
        """The scores of models without a neural network, by the name of the model.

        A task without this method has no baselines.

        Args:
            outputs: `outputs` of all training examples, of which `train` may be a part.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def predictions(self, judged: Judged) -> list[dict[str, Any]]:
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


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Those of rows [rows, C] with their labels, in nats and in the type of the logits."""
    return -log_softmax(logits)[np.arange(labels.size), labels]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis, in the type of the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
