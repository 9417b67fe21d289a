"""What every reader of a foreign model returns, whatever library wrote it."""

import dataclasses
from typing import NamedTuple

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.names import Dialect, Head, Tensors


class Moments(NamedTuple):
    """Adam's slots, under the names of the tensors that they belong to."""

    mu: Tensors
    nu: Tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A foreign model, read whole.

    Attributes:
        origin: what was read, for messages: path and kind.
        model: the architecture that its config states.
        dropout: the rates that its config states.
        tokenizer: vocabulary and casing; equal ids to what the source used.
        tensors: name in `exchange/names.py`'s dialect -> float32. Names that the table
            does not know stay as they are, so that they can be listed as unused.
        dialect: whose names and layouts these are.
        head: what the architecture says is on top of the encoder.
        labels: of a classifier or tagger, in the order of its logits.
        step: number of updates behind it, where the source says so.
        moments: of the optimizer, where the source has them.
        notes: one sentence each about anything that was decided or converted.
    """

    origin: str
    model: ModelConfig
    dropout: DropoutConfig
    tokenizer: Tokenizer
    tensors: Tensors
    dialect: Dialect
    head: Head
    labels: tuple[str, ...] | None = None
    step: int = 0
    moments: Moments | None = None
    notes: tuple[str, ...] = ()
