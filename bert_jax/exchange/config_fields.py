"""Keys of a foreign config as fields of our configs, and back, by a family's fields.

A field is called as in `ModelConfig`, or `dropout.` and its name in `DropoutConfig`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.config_json import from_json
from bert_jax.exchange.families.family import Field

_DROPOUT = "dropout."
# Fields that no number of a trained model with one head depends on.
_OF_TRAINING = ("init_by_depth", "next_sentence")


def refuse_keys(
    path: pathlib.Path, config: Mapping[str, Any], refused: Mapping[str, Sequence[Any]]
) -> None:
    """Refuses a config that asks for what does not exist here.

    Args:
        path: of the config, for messages.
        config: its content.
        refused: keys -> the values of them that change nothing.

    Raises:
        ValueError: a key has another value.
    """
    for key, harmless in refused.items():
        value = config.get(key)
        if value is not None and value not in harmless:
            expected = f"{harmless[0]!r}, or none" if harmless else "none"
            raise ValueError(
                f"{path} has {key}={value!r}; expected {expected}. Its numbers would "
                "come out otherwise here, so it cannot be imported."
            )


def taken_by_default(
    config: Mapping[str, Any], fields: Mapping[str, Field]
) -> list[str]:
    """The keys that a config lacks, each as `key=value` with its library's default."""
    return [
        f"{at.key}={at.default!r}"
        for at in fields.values()
        if config.get(at.key) is None and at.default is not None
    ]


def read_fields(
    path: pathlib.Path, config: Mapping[str, Any], fields: Mapping[str, Field]
) -> dict[str, Any]:
    """Our fields with the values that the config gives them, or its library by default.

    Raises:
        ValueError: a key is missing, or has a value that nothing here means.
    """
    given = {ours: config.get(at.key, at.default) for ours, at in fields.items()}
    missing = [
        fields[ours].key
        for ours, value in given.items()
        if value is None and not fields[ours].optional
    ]
    if missing:
        raise ValueError(f"{path} lacks {missing}; a model needs all of them.")
    for ours, (key, _, values, _) in fields.items():
        if values is None:
            continue
        if str(given[ours]) not in values:
            raise ValueError(
                f"{path} has {key}={given[ours]!r}; expected one of {list(values)}. "
                "Nothing else exists here."
            )
        given[ours] = values[given[ours]]
    return given


def make_configs(
    path: pathlib.Path, config: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[ModelConfig, DropoutConfig]:
    """The architecture and the rates of dropout with the given fields.

    Raises:
        ValueError: they do not fit together, or the embeddings are of another width.
    """
    rates = {
        name.removeprefix(_DROPOUT): value
        for name, value in given.items()
        if name.startswith(_DROPOUT)
    }
    sizes = {
        name: value for name, value in given.items() if not name.startswith(_DROPOUT)
    }
    try:
        model = from_json(ModelConfig, json.dumps(sizes))
        dropout = from_json(DropoutConfig, json.dumps(rates))
    except ValueError as error:
        raise ValueError(
            f"{path} describes no model that exists here: {error}"
        ) from error
    if config.get("embedding_size") not in (None, model.token_width):
        raise ValueError(
            f"{path} has embedding_size={config['embedding_size']} beside hidden_size="
            f"{model.hidden_size}; there is no layer between the two here."
        )
    return model, dropout


def fields_without_words(
    cfg: ModelConfig, fields: Mapping[str, Field], fixed: Mapping[str, Any]
) -> list[str]:
    """The fields whose value the foreign config cannot say, each as `name=value`.

    Args:
        cfg: what is to be written.
        fields: our field -> their key.
        fixed: our field without a key -> the value that their code has built in. A
            field that is in neither has the default of `ModelConfig` there.
    """
    wordless = []
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if field.name in _OF_TRAINING:
            said = True
        elif field.name not in fields:
            said = value == fixed.get(field.name, field.default)
        else:
            values = fields[field.name].values
            said = values is None or value in values.values()
        if not said:
            wordless.append(f"{field.name}={value!r}")
    return wordless


def same_numbers(found: ModelConfig, cfg: ModelConfig) -> bool:
    """Whether both compute the same, given the same weights and head."""
    same = {name: getattr(cfg, name) for name in _OF_TRAINING}
    if found.kv_heads == cfg.kv_heads:
        same["num_kv_heads"] = cfg.num_kv_heads
    return dataclasses.replace(found, **same) == cfg


def write_fields(
    cfg: ModelConfig, dropout: DropoutConfig, fields: Mapping[str, Field]
) -> dict[str, Any]:
    """The keys of the config with what our configs say, in the order of the fields.

    `fields_without_words` must have found none.
    """
    config = {}
    for ours, (key, _, values, _) in fields.items():
        owner = dropout if ours.startswith(_DROPOUT) else cfg
        value = getattr(owner, ours.removeprefix(_DROPOUT))
        if values is not None:
            value = next(theirs for theirs, means in values.items() if means == value)
        config[key] = value
    return config
