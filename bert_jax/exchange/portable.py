"""A whole model with one head: what every export writes, and is compared with.

Inputs and outputs carry the names that transformers gives them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.tensors import Head, Params, flatten
from bert_jax.model.sentence_embedding import Pooling


class Output(NamedTuple):
    """One array that an exported model returns."""

    name: str
    shape: tuple[str, ...]


INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS: dict[Head, tuple[Output, ...]] = {
    "pretraining": (
        Output("prediction_logits", ("batch", "length", "vocabulary")),
        # Class 0: the second text follows the first; class 1: it is a random one.
        Output("seq_relationship_logits", ("batch", "pair_classes")),
    ),
    "mlm": (Output("logits", ("batch", "length", "vocabulary")),),
    "classifier": (Output("logits", ("batch", "labels")),),
    "tokens": (Output("logits", ("batch", "length", "labels")),),
    "spans": (
        Output("start_logits", ("batch", "length")),
        Output("end_logits", ("batch", "length")),
    ),
    # A row for each choice; the softmax is over the rows of an example.
    "choice": (Output("logits", ("batch", "one")),),
    "mean_vector": (Output("sentence_embedding", ("batch", "hidden")),),
    "cls_vector": (Output("sentence_embedding", ("batch", "hidden")),),
}
# The heads without parameters, which give a text a vector.
VECTORS: dict[Head, Pooling] = {"mean_vector": "mean", "cls_vector": "cls"}
HIDDEN_STATES = Output("last_hidden_state", ("batch", "length", "hidden"))
LABELLED = ("classifier", "tokens")


@dataclasses.dataclass(frozen=True)
class PortableModel:
    """A model with one head, whose parts belong to each other.

    Attributes:
        cfg: of `params`.
        params: float32; of `head` and nothing else.
        head: what is on top of the encoder.
        tokenizer: what the model was trained with.
        dropout: the rates that a config file names.
        labels: of a classifier or tagger, in the order of its logits.
        problem_type: of a classifier, what transformers calls its loss. By default, a
            text has one of the labels.
        results: task -> metric -> value, for the model card.
        step: number of updates behind it.
        moments: Adam's first and second, each a tree like `params`.
        hidden_states: whether the exported model returns the encoder's last hidden
            states, too.
        sequence_length: tokens that texts are cut to. Default: all positions.
        long_texts: what is done with a text that does not fit, of
            `FinetuneConfig.long_texts`.

    Raises:
        ValueError: tokenizer or labels are not those of this model, or a parameter
            has a number that is not finite.
    """

    cfg: ModelConfig
    params: Params
    head: Head
    tokenizer: Tokenizer
    _: dataclasses.KW_ONLY
    dropout: DropoutConfig = DropoutConfig()
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None
    results: Mapping[str, Mapping[str, object]] = dataclasses.field(
        default_factory=dict
    )
    step: int = 0
    moments: tuple[Params, Params] | None = None
    hidden_states: bool = False
    sequence_length: int | None = None
    long_texts: str = "cut"

    def __post_init__(self) -> None:
        self._check_labels()
        if self.tokenizer.vocab_size != self.cfg.vocab_size:
            raise ValueError(
                f"The tokenizer has {self.tokenizer.vocab_size} pieces, "
                f"ModelConfig.vocab_size={self.cfg.vocab_size}; export with the "
                "tokenizer of the training run."
            )
        refuse_not_finite("The model", flatten(self.params))

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the exported model takes: `token_type_ids` only where they change anything."""
        return INPUTS if self.cfg.num_segments > 1 else INPUTS[:2]

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the exported model returns."""
        return (*OUTPUTS[self.head], *((HIDDEN_STATES,) * self.hidden_states))

    def _check_labels(self) -> None:
        if self.head not in LABELLED:
            if self.labels is not None:
                raise ValueError(
                    f"labels={list(self.labels)} would be ignored: a {self.head} model "
                    "has none."
                )
            return
        num_classes = np.shape(self.params.get(self.head, {}).get("bias", ()))
        names = list(self.labels or ())
        if num_classes != (len(names),) or len(set(names)) != len(names):
            raise ValueError(
                f"labels={names} do not fit a {self.head} bias of shape "
                f"{list(num_classes)}; give every class one name of its own."
            )


def refuse_not_finite(where: str, tensors: Mapping[str, Any]) -> None:
    """Raises ValueError if a tensor holds NaN or an infinite number, and names it."""
    for name, tensor in tensors.items():
        if bad := int(tensor.size - np.isfinite(tensor).sum()):
            first = tensor[~np.isfinite(tensor)].ravel()[0]
            raise ValueError(
                f"{where} has {bad} numbers in the tensor {name!r} that are not finite, "
                f"such as {first}; every result would be NaN. Take an earlier "
                "checkpoint, or fetch the file again."
            )
