"""Which head a run has: the one place where a run's kind becomes a head, and back."""

import jax

from bert_jax.exchange.source import Source
from bert_jax.exchange.tensors import Head, Params
from bert_jax.model import classification, pretraining

# What is left of a pretraining model without pooler and next-sentence head.
MLM_PARTS = ("embed", "layers", "mlm")


def head_of_kind(kind: str) -> Head:
    """The head of a run of this kind, "pretrain" or "finetune"."""
    return "pretraining" if kind == "pretrain" else "classifier"


def kind_of_source(source: Source, *, encoder_only: bool) -> str:
    """The kind of run that a foreign model becomes.

    Args:
        source: the foreign model.
        encoder_only: whether a classifier's own head is left out.
    """
    classifier = source.head == "classifier" and not encoder_only
    return "finetune" if classifier else "pretrain"


def fresh_params(source: Source, head: Head, seed: int) -> Params:
    """Freshly drawn parameters of a model with the source's sizes and this head."""
    key = jax.random.key(seed)
    if head == "classifier":
        num_labels = len(source.labels or ())
        params = classification.init_params(source.model, num_labels, key)
    else:
        params = pretraining.init_params(source.model, key)
    return jax.device_get(params)
