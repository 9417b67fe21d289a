"""What the readers and writers of models ask about a family.

A family is one architecture of transformers, such as `bert`. Everything that only one
family has stands in its file beside this one; the readers and writers are the same for
all of them.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from bert_jax.config import ModelConfig
from bert_jax.exchange.tensors import Head, Row, dense, stacked


class Field(NamedTuple):
    """A key of their config that is a field of ours."""

    key: str
    default: Any = None
    """What their library takes where the key is missing; None: it must be there."""
    values: Mapping[str, str] | None = None
    """Their value -> ours, where they differ. Of several for one of ours, the first is
    written."""
    optional: bool = False
    """Whether None is a value."""


Config = dict[str, Any]
"""The content of a config.json."""
ENDS = {"bos_token_id": "cls", "eos_token_id": "sep"}
"""For `special_keys`: the tokens around a text."""


class HeadForm(NamedTuple):
    """What one of our heads is called in transformers."""

    architecture: str
    """Its class."""
    task: str
    """The task under which the Hub lists it."""
    usage: str
    """A sentence for the model card: how the model is tried."""
    library: str = "transformers"
    """The library under which the Hub lists it."""


_VECTOR = HeadForm(
    "Model",
    "sentence-similarity",
    """`SentenceTransformer(...)` of sentence-transformers loads the whole directory, and its
`encode` gives the vectors of texts, pooled as they were trained.""",
    library="sentence-transformers",
)
# How the names of the classes end.
_FORMS: dict[Head, HeadForm] = {
    "pretraining": HeadForm(
        "ForPreTraining",
        "fill-mask",
        """`pipeline("fill-mask", ...)` fills in masked words. It has no use for the pooler and
the next-sentence head, and its load report lists them as unexpected.""",
    ),
    "mlm": HeadForm(
        "ForMaskedLM",
        "fill-mask",
        '`pipeline("fill-mask", ...)` fills in masked words.',
    ),
    "classifier": HeadForm(
        "ForSequenceClassification",
        "text-classification",
        '`pipeline("text-classification", ...)` names the class of a text.',
    ),
    "tokens": HeadForm(
        "ForTokenClassification",
        "token-classification",
        '`pipeline("token-classification", ...)` tags every token.',
    ),
    "spans": HeadForm(
        "ForQuestionAnswering",
        "question-answering",
        "Its start and end logits mark the answer to a question in a text.",
    ),
    "choice": HeadForm(
        "ForMultipleChoice",
        "multiple-choice",
        "Its inputs have an axis for the choices; the highest logit is the right one.",
    ),
    "mean_vector": _VECTOR,
    "cls_vector": _VECTOR,
}


def forms(prefix: str, *heads: Head) -> dict[Head, HeadForm]:
    """The heads of a family, and the vectors that every family gives.

    Args:
        prefix: what the names of its classes begin with.
        heads: those that it has classes for.
    """
    return {
        head: form._replace(architecture=prefix + form.architecture)
        for head, form in _FORMS.items()
        if head in (*heads, "mean_vector", "cls_vector")
    }


def text_heads(pooler: str) -> dict[Head, tuple[Row, ...]]:
    """The rows of every head but those of pretraining, as BERT has them.

    Args:
        pooler: what the pooler is called, which several heads begin with.
    """
    pooled = tuple(dense("pooler", pooler, "DD", "D"))
    return {
        "classifier": (*pooled, *dense("classifier", "classifier", "DC", "C")),
        "tokens": tuple(dense("tokens", "classifier", "DC", "C")),
        "spans": tuple(dense("spans", "qa_outputs", "D2", "2")),
        "choice": (*pooled, *dense("choice", "classifier", "DC", "C")),
        "mean_vector": (),
        "cls_vector": (),
    }


def rows_by_head(
    tables: Sequence[Row], layer: Sequence[Row], heads: Mapping[Head, Sequence[Row]]
) -> Callable[[ModelConfig, Head], tuple[Row, ...]]:
    """`Family.rows`, where every model of the family has the same parts.

    Args:
        tables: the rows of what stands before the layers.
        layer: those of one layer.
        heads: those of each head.
    """
    return lambda cfg, head: (*tables, *stacked(layer, cfg.num_layers), *heads[head])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture of transformers, both ways.

    Attributes:
        model_type: what config.json calls it.
        fields: our field, as `config_fields` calls it -> their key.
        fixed: our field that has no key there -> the value that their code has built
            in. A field that is neither here nor in `fields` has the default of
            `ModelConfig` there, which is BERT's.
        spelled_out: makes every spelling of a config the one that `fields` names, given
            the path of the file for messages. It raises ValueError where the config asks
            for what does not exist here.
        respelled: the reverse, for what is written.
        refused: keys that make another model of it -> the values that do not.
            `huggingface_config` knows those that every family shares.
        idle: keys that no logit depends on; likewise.
        heads: our head -> what it is called there.
        tokenizer_classes: tokenizers that give this family its ids.
        rows: the names and layouts of all tensors of a model with one head. The last
            row is the head's bias.
        prefix: what the names of the encoder's tensors begin with.
        layer: what the names of one layer's tensors begin with, with `{layer}` in it.
        tied: second copy of a tensor -> the name in `rows` that it is tied to. The
            first is the weight of the MLM decoder.
        base_pools: whether the class without a head has a pooler, which one must switch
            off.
        special_keys: keys with ids of the vocabulary -> the special token that they name.
        position_ids: a buffer of numbers that only count from 0, where there is one.
        old_suffixes: how names once ended -> how they end now.
    """

    model_type: str
    fields: Mapping[str, Field]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    spelled_out: Callable[[pathlib.Path, Config], Config] = lambda path, config: config
    respelled: Callable[[Config, ModelConfig], Config] = lambda config, cfg: config
    refused: Mapping[str, Sequence[Any]]
    idle: Collection[str] = ()
    heads: Mapping[Head, HeadForm]
    tokenizer_classes: Collection[str]
    rows: Callable[[ModelConfig, Head], tuple[Row, ...]]
    prefix: str
    layer: str
    tied: Mapping[str, str]
    base_pools: bool = False
    special_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    position_ids: str | None = None
    old_suffixes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def head_of_tensors(
    rows: Callable[[Head], tuple[Row, ...]],
    heads: Collection[Head],
    names: Collection[str],
) -> Head:
    """The head whose kernels are all among `names`; without any, a pretraining model.

    Args:
        rows: the rows of a model with one head.
        heads: those that the family has.
        names: of the tensors that are there.
    """
    candidates: tuple[Head, ...] = ("classifier", "tokens", "spans")
    for head in candidates:  # a classifier has all that a tagger has, and a pooler
        if head not in heads:
            continue
        own = {
            row.theirs
            for row in rows(head)
            if row.layer is None and row.ours.endswith("/kernel")
        }
        if own <= set(names):
            return head
    return "pretraining" if "pretraining" in heads else "mlm"
