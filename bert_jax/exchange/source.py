"""What every reader of a foreign model returns, whatever library wrote it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.tensors import Head, Row, Tensors

# Element types that are read -> how they become float32.
FLOATS = {
    "float32": "",
    "float16": "exactly",
    "bfloat16": "exactly",
    "float64": "rounded",
}


class Slots(NamedTuple):
    """Adam's moments, by the names of the tensors that they belong to."""

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
        tensors: name in `rows` -> float32. Names that no row has stay as they are, so
            that they can be listed as unused.
        rows: head -> the names and layouts of a model with that head.
        head: what the source says is on top of the encoder.
        labels: of a classifier or tagger, in the order of its logits.
        problem_type: of a classifier, what transformers calls its loss.
        max_length: tokens after which the source's tokenizer cuts a text, if it says so.
        step: number of updates behind it, where the source says so.
        slots: moments of the optimizer, where the source has them.
        notes: one sentence each about anything that was decided or converted.
    """

    origin: str
    model: ModelConfig
    dropout: DropoutConfig
    tokenizer: Tokenizer
    tensors: Tensors
    rows: Callable[[Head], tuple[Row, ...]]
    head: Head
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None
    max_length: int | None = None
    step: int = 0
    slots: Slots | None = None
    notes: tuple[str, ...] = ()


def note_floats(dtypes: Iterable[str], notes: list[str]) -> None:
    """Says in `notes` how many tensors of which type become float32, and how."""
    counts = Counter(dtypes)
    for dtype, how in FLOATS.items():
        if counts[dtype] and how:
            notes.append(f"{counts[dtype]} tensors were {dtype}: float32 now, {how}.")
