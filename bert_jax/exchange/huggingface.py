"""Our parameters as a directory that transformers' Auto classes load.

config.json stands here both ways: architecture, head and labels. Neither torch nor
transformers is needed; `exchange/verify.py` loads the result back with them.
"""

import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.config_json import from_json
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.names import Head, Params, to_tensors
from bert_jax.exchange.portable import LABELLED, check_parts
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer


class _Form(NamedTuple):
    """What one of our heads is called there."""

    architecture: str
    task: str
    """The Hub's name of it."""
    usage: str
    """How the model card says it is tried."""


_FORMS: dict[Head, _Form] = {
    "pretraining": _Form(
        "BertForPreTraining",
        "fill-mask",
        """`pipeline("fill-mask", ...)` fills in `[MASK]`. It has no use for the pooler and
the next-sentence head, and its load report lists them as unexpected.""",
    ),
    "mlm": _Form(
        "BertForMaskedLM",
        "fill-mask",
        """`pipeline("fill-mask", ...)` fills in `[MASK]`. Pooler and next-sentence head were
left out.""",
    ),
    "classifier": _Form(
        "BertForSequenceClassification",
        "text-classification",
        '`pipeline("text-classification", ...)` names the class of a text.',
    ),
    "tokens": _Form(
        "BertForTokenClassification",
        "token-classification",
        '`pipeline("token-classification", ...)` tags every token.',
    ),
    "spans": _Form(
        "BertForQuestionAnswering",
        "question-answering",
        "Its start and end logits mark the answer to a question in a text.",
    ),
}
_SCORES = (
    '`pipeline("text-classification", ...)` gives the score of a text, a regression.'
)
# Other classes of transformers with parts of our pretraining model.
_PARTIAL = ("BertModel", "BertForMaskedLM", "BertForNextSentencePrediction")

# Our field -> key there, and what transformers takes where the key is missing.
_FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", None),
    "hidden_size": ("hidden_size", None),
    "num_layers": ("num_hidden_layers", None),
    "num_heads": ("num_attention_heads", None),
    "mlp_size": ("intermediate_size", None),
    "max_positions": ("max_position_embeddings", None),
    "num_segments": ("type_vocab_size", 2),
    "gelu": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "init_std": ("initializer_range", 0.02),
}
# The same for the rates of dropout.
_DROPOUT_FIELDS = {
    "hidden": ("hidden_dropout_prob", 0.1),
    "attention": ("attention_probs_dropout_prob", 0.1),
}
_GELUS = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
# Keys that make another model of it, with the values that do not.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "auto_map": ({},),
    "problem_type": ("single_label_classification",),
}
_READ = {
    *(key for key, _ in (*_FIELDS.values(), *_DROPOUT_FIELDS.values())),
    *_REFUSED,
    *("architectures", "id2label", "label2id", "num_labels", "tie_word_embeddings"),
    *("embedding_size", "classifier_dropout", "pad_token_id"),
}
# Of no consequence to any logit.
_IDLE = {
    *("_name_or_path", "bos_token_id", "chunk_size_feed_forward", "dtype"),
    *("eos_token_id", "finetuning_task", "gradient_checkpointing", "torch_dtype"),
    *("transformers_version", "use_cache"),
}


def write_huggingface(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    dropout: DropoutConfig = DropoutConfig(),
    labels: Sequence[str] | None = None,
    results: Mapping[str, Mapping[str, object]] | None = None,
    origin: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes weights, config, tokenizer and model card.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else, float32.
        head: decides which class of transformers loads the directory.
        tokenizer: what the model was trained with.
        directory: absent or empty unless `overwrite` is set; it appears at once,
            complete, or not at all.
        dropout: the rates that config.json names.
        labels: of a classifier or tagger, in the order of its logits.
        results: task -> metric -> value, for the model card.
        origin: one sentence on where the weights come from, for the model card.
        overwrite: whether all that `directory` holds may be replaced.

    Raises:
        ValueError: `directory` is taken, or the parts do not fit each other.
    """
    from safetensors.numpy import save_file

    check_parts(cfg, params, head, tokenizer, labels)
    tensors = to_tensors(cfg, params, head, "huggingface")
    config = _config(cfg, dropout, tokenizer, head) | _label_config(head, labels)
    with whole_directory(directory, overwrite) as partial:
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config, indent=2) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")
        save_huggingface_tokenizer(tokenizer, partial, cfg.max_positions)
        form = _FORMS[head]
        if config.get("problem_type") == "regression":
            form = form._replace(usage=_SCORES)
        card = _model_card(cfg, tokenizer, form, results or {}, origin)
        (partial / "README.md").write_text(card, encoding="utf-8")


def architecture(head: Head) -> str:
    """The class of transformers that has this head."""
    return _FORMS[head].architecture


def read_config(
    path: pathlib.Path, config: Mapping[str, Any], notes: list[str]
) -> tuple[ModelConfig, DropoutConfig]:
    """Architecture and dropout that a config.json states; remarks go to `notes`.

    Raises:
        ValueError: a key is missing, or asks for what would give other numbers here.
    """
    for key, harmless in _REFUSED.items():
        value = config.get(key)
        if value is not None and value not in harmless:
            expected = f"{harmless[0]!r}, or none" if harmless else "none"
            raise ValueError(
                f"{path} has {key}={value!r}; expected {expected}. Its numbers would "
                "come out otherwise here, so it cannot be imported."
            )
    if "model_type" not in config:
        notes.append(f"{path} has no model_type; taken for 'bert'.")
    given = {ours: config.get(key, default) for ours, (key, default) in _FIELDS.items()}
    if missing := [_FIELDS[name][0] for name, v in given.items() if v is None]:
        raise ValueError(f"{path} lacks {missing}; BERT needs all of them.")
    if str(given["gelu"]) not in _GELUS:
        raise ValueError(
            f"{path} has hidden_act={given['gelu']!r}; expected one of "
            f"{list(_GELUS)}. No other activation exists here."
        )
    given["gelu"] = _GELUS[given["gelu"]]
    try:
        model = from_json(ModelConfig, json.dumps(given))
        rates = {
            ours: config.get(key, default)
            for ours, (key, default) in _DROPOUT_FIELDS.items()
        }
        dropout = from_json(DropoutConfig, json.dumps(rates))
    except ValueError as error:
        raise ValueError(f"{path} describes no BERT that fits: {error}") from error
    if config.get("embedding_size", model.hidden_size) != model.hidden_size:
        raise ValueError(
            f"{path} has embedding_size={config['embedding_size']} beside hidden_size="
            f"{model.hidden_size}; there is no layer between the two here."
        )
    if config.get("classifier_dropout") not in (None, dropout.hidden):
        notes.append(
            f"{path} has classifier_dropout={config['classifier_dropout']}; training "
            f"here uses the hidden rate, {dropout.hidden}. No logit depends on it."
        )
    if unread := sorted(config.keys() - _READ - _IDLE):
        notes.append(f"{path} has keys that nothing here reads: {', '.join(unread)}.")
    return model, dropout


def read_head(
    path: pathlib.Path,
    config: Mapping[str, Any],
    names: Collection[str],
    notes: list[str],
) -> Head:
    """What is on top of the encoder: by the architecture, else by the tensors' names.

    Raises:
        ValueError: it is a head that does not exist here.
    """
    heads: dict[str, Head] = {form.architecture: head for head, form in _FORMS.items()}
    heads |= dict.fromkeys(_PARTIAL, "pretraining")
    given = config.get("architectures") or []
    known = [heads[name] for name in given if name in heads]
    if "BertForMultipleChoice" in given:
        raise ValueError(
            f"{path} has architectures={given}; multiple choice has no head here. "
            "Expected one of " + ", ".join(heads) + "."
        )
    if known:
        return known[0]
    head: Head = "pretraining"
    if "qa_outputs.weight" in names:
        head = "spans"
    elif "classifier.weight" in names:
        head = "classifier" if "bert.pooler.dense.weight" in names else "tokens"
    notes.append(f"{path} has architectures={given}; by its tensors, a {head} model.")
    return head


def read_labels(
    path: pathlib.Path,
    config: Mapping[str, Any],
    head: Head,
    bias: np.ndarray | None,
    notes: list[str],
) -> tuple[str, ...] | None:
    """Names of the logits of a classifier or tagger, whose bias this is.

    Raises:
        ValueError: they are not one name for each logit, or no class is meant by them.
    """
    if head not in LABELLED or bias is None:
        return None
    if head == "classifier" and bias.size == 1:
        raise ValueError(
            f"{path}: a classifier with one logit is a regression; expected two "
            "classes or more. Regressions cannot be imported."
        )
    given = config.get("id2label")
    if given is None:
        given = {str(index): f"LABEL_{index}" for index in range(bias.size)}
        notes.append(f"{path} has no id2label; the classes are called LABEL_0, ….")
    keys = [str(index) for index in range(bias.size)]
    if given.keys() != set(keys) or len({*given.values()}) != len(keys):
        raise ValueError(
            f"{path} has id2label={given}; expected one name of its own for each of "
            f"0 to {bias.size - 1}, the logits of the classifier."
        )
    return tuple(str(given[key]) for key in keys)


def _config(
    cfg: ModelConfig, dropout: DropoutConfig, tokenizer: Tokenizer, head: Head
) -> dict[str, Any]:
    return {
        "architectures": [architecture(head)],
        "model_type": "bert",
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.mlp_size,
        "max_position_embeddings": cfg.max_positions,
        "type_vocab_size": cfg.num_segments,
        "hidden_act": "gelu" if cfg.gelu == "exact" else "gelu_pytorch_tanh",
        "hidden_dropout_prob": dropout.hidden,
        "attention_probs_dropout_prob": dropout.attention,
        "layer_norm_eps": cfg.layer_norm_eps,
        "initializer_range": cfg.init_std,
        "pad_token_id": tokenizer.special.pad,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _label_config(head: Head, labels: Sequence[str] | None) -> dict[str, Any]:
    if labels is None:
        return {}
    config: dict[str, Any] = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if head == "classifier":
        # One logit is a regression, as transformers has it too.
        config["problem_type"] = (
            "regression" if len(labels) == 1 else "single_label_classification"
        )
    return config


def _model_card(
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    form: _Form,
    results: Mapping[str, Mapping[str, object]],
    origin: str | None,
) -> str:
    name, task, usage = form
    rows = [
        f"| {_cell(of)} | {_cell(metric)} | {_cell(value)} |\n"
        for of, metrics in results.items()
        for metric, value in metrics.items()
    ]
    measured = [
        "\n## Measured\n\n",
        "| task | metric | value |\n|---|---|---|\n",
        *rows,
    ]
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags:
- bert
- bert_jax
---

# {name}, written by bert_jax
{f"{chr(10)}{origin}{chr(10)}" if origin else ""}
{cfg.num_layers} layers, hidden size {cfg.hidden_size}, {cfg.num_heads} heads,
{cfg.max_positions} positions, {cfg.gelu} GELU; {tokenizer.kind} vocabulary of
{cfg.vocab_size:,} pieces, {"lower-cased" if tokenizer.lowercase else "cased"}.

Load it with `{name}.from_pretrained`, its tokenizer with
`AutoTokenizer.from_pretrained`. {usage}
""" + ("".join(measured) if rows else "")


def _cell(value: object) -> str:
    """A table's cell ends at a bar and at a line's end; those of the value do not."""
    return " ".join(str(value).split()).replace("|", "\\|")
