"""A Hugging Face config.json, both ways: architecture, head and labels."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.exchange.config_fields import (
    make_configs,
    read_fields,
    refuse_keys,
    taken_by_default,
    write_fields,
)
from bert_jax.exchange.families.family import Family, head_of_tensors
from bert_jax.exchange.portable import LABELLED, VECTORS, PortableModel
from bert_jax.exchange.tensors import Head

# Keys of every family that make another model of it, with the values that do not.
_REFUSED: dict[str, list[Any]] = {
    "is_decoder": [False],
    "is_encoder_decoder": [False],
    "add_cross_attention": [False],
    "pruned_heads": [{}],
    "quantization_config": [],
    "auto_map": [{}],
    "problem_type": [
        "single_label_classification",
        "multi_label_classification",
        "regression",
    ],
}
# Keys that this file and `read_huggingface` look at.
_READ = {
    *("model_type", "architectures", "id2label", "label2id", "num_labels"),
    *("tie_word_embeddings", "embedding_size", "classifier_dropout", "pad_token_id"),
    *("tokenizer_class", "do_lower_case"),
}
# Keys of every family that no logit depends on.
_IDLE = {
    *("_name_or_path", "bos_token_id", "chunk_size_feed_forward", "dtype"),
    *("cls_token_id", "sep_token_id", "mask_token_id", "eos_token_id"),
    *("finetuning_task", "torch_dtype", "transformers_version"),
}


def read_config(
    path: pathlib.Path, config: Mapping[str, Any], family: Family, notes: list[str]
) -> tuple[ModelConfig, DropoutConfig]:
    """The architecture and the rates of dropout that a config.json states.

    Args:
        path: of the file, for messages.
        config: its content.
        family: that the file names.
        notes: gets a sentence for each thing that was left out.

    Raises:
        ValueError: a key is missing, or asks for what would give other numbers here.
    """
    refuse_keys(path, config, _REFUSED | dict(family.refused))
    config = family.spelled_out(path, dict(config))
    model, dropout = _read_fields(path, config, family)
    if lacking := taken_by_default(config, family.fields):
        notes.append(
            f"{path} does not say {', '.join(lacking)}; these are transformers' defaults."
        )
    if config.get("classifier_dropout") not in (None, dropout.hidden):
        notes.append(
            f"{path} has classifier_dropout={config['classifier_dropout']}; training "
            f"here uses the hidden rate, {dropout.hidden}. No logit depends on it."
        )
    known = {field.key for field in family.fields.values()}.union(
        *(_REFUSED, family.refused, _READ, _IDLE, family.idle)
    )
    if unread := sorted(config.keys() - known):
        notes.append(f"{path} has keys that nothing here reads: {', '.join(unread)}.")
    return model, dropout


def read_architecture(
    path: pathlib.Path, config: Mapping[str, Any], family: Family
) -> tuple[ModelConfig, DropoutConfig]:
    """The fields that the family knows, and nothing about the other keys.

    Raises:
        ValueError: a key is missing, or has a value that nothing here means.
    """
    return _read_fields(path, family.spelled_out(path, dict(config)), family)


def _read_fields(
    path: pathlib.Path, config: Mapping[str, Any], family: Family
) -> tuple[ModelConfig, DropoutConfig]:
    given = read_fields(path, config, family.fields) | dict(family.fixed)
    return make_configs(path, config, given)


def write_config(model: PortableModel, family: Family) -> dict[str, Any]:
    """The content of a config.json."""
    config = {
        "architectures": [family.heads[model.head].architecture],
        "model_type": family.model_type,
        **write_fields(model.cfg, model.dropout, family.fields),
        "pad_token_id": model.tokenizer.special.pad,
        "tie_word_embeddings": model.cfg.tied_decoder,
        "dtype": "float32",
    }
    for key, name in family.special_keys.items():
        config[key] = getattr(model.tokenizer.special, name)
    config = family.respelled(config, model.cfg)
    labels = model.labels
    if labels is None:
        return config
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    if model.head == "classifier":
        # One logit can only be a regression, as transformers has it too.
        default = "regression" if len(labels) == 1 else "single_label_classification"
        config["problem_type"] = model.problem_type or default
    return config


def read_head(
    path: pathlib.Path,
    config: Mapping[str, Any],
    family: Family,
    model: ModelConfig,
    names: Collection[str],
    notes: list[str],
) -> Head:
    """What is on top of the encoder: by the architecture, else by the tensors' names.

    A class without head or with the MLM head alone is a pretraining model that lacks
    parts, where the family has pretraining models.

    Raises:
        ValueError: it is a decoder.
    """
    whole: Head = "pretraining" if "pretraining" in family.heads else "mlm"
    heads = {
        form.architecture: whole if head in ("mlm", *VECTORS) else head
        for head, form in family.heads.items()
    }
    given = config.get("architectures") or []
    if any(str(name).endswith("ForCausalLM") for name in given):
        raise ValueError(
            f"{path} has architectures={given}; a decoder, whose tokens see only those "
            f"before them. Expected one of {', '.join(heads)}."
        )
    for name in map(str, given):
        if name in heads:
            return heads[name]
    head = head_of_tensors(lambda head: family.rows(model, head), family.heads, names)
    what = "a pretraining model" if head == whole else f"a {head} model"
    notes.append(f"{path} has architectures={given}; by its tensors, {what}.")
    return head


def read_problem_type(
    path: pathlib.Path,
    config: Mapping[str, Any],
    head: Head,
    bias: np.ndarray | None,
    notes: list[str],
) -> str | None:
    """What transformers calls the loss of a classifier, whose bias this is."""
    if head != "classifier" or bias is None:
        return None
    given = config.get("problem_type")
    if given is None:
        # So transformers decides it in training.
        given = "regression" if bias.size == 1 else "single_label_classification"
        if bias.size == 1:
            notes.append(
                f"{path} has no problem_type; a classifier with one logit is taken as a "
                "regression, as transformers trains it. Its score is the logit itself."
            )
    return str(given)


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
    given = config.get("id2label")
    if given is None:
        given = {str(index): f"LABEL_{index}" for index in range(bias.size)}
        notes.append(f"{path} has no id2label; the classes are called LABEL_0, ….")
    keys = [str(index) for index in range(bias.size)]
    names = {key: str(x) for key, x in given.items()} if isinstance(given, dict) else {}
    if names.keys() != set(keys) or len({*names.values()}) != len(keys):
        raise ValueError(
            f"{path} has id2label={given}; expected one name of its own for each of "
            f"0 to {bias.size - 1}, the logits of the classifier."
        )
    labels = tuple(names[key] for key in keys)
    numbers = config.get("label2id")
    if numbers and numbers != {label: index for index, label in enumerate(labels)}:
        notes.append(
            f"{path} has label2id={numbers}, which contradicts id2label={names}; the "
            "names of id2label are used, as in transformers."
        )
    return labels
