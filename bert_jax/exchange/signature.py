"""What goes into an exported model and what comes out, and whether its parts fit.

Inputs and outputs carry the names that transformers gives them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.tensors import Head, Params


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
}
LABELLED = ("classifier", "tokens")


def check_parts(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    labels: Sequence[str] | None,
) -> None:
    """Whether tokenizer and labels belong to this model.

    Raises:
        ValueError: they do not; the message says which and why.
    """
    if tokenizer.vocab_size != cfg.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} pieces, ModelConfig.vocab_size="
            f"{cfg.vocab_size}; export with the tokenizer of the training run."
        )
    if head not in LABELLED:
        if labels is not None:
            raise ValueError(
                f"labels={list(labels)} would be ignored: a {head} model has none."
            )
        return
    num_classes = np.shape(params.get(head, {}).get("bias", ()))
    names = list(labels or ())
    if num_classes != (len(names),) or len(set(names)) != len(names):
        raise ValueError(
            f"labels={names} do not fit a {head} bias of shape {list(num_classes)}; "
            "give every class one name of its own."
        )
