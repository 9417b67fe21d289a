"""BERT as google-research/bert has it: bert_config.json and the names of its variables.

The names follow from those of transformers, which were made from Google's. Source:
google-research/bert, modeling.py, run_classifier.py and run_squad.py.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.exchange.config_fields import (
    fields_without_words,
    make_configs,
    read_fields,
    refuse_keys,
    write_fields,
)
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.family import Field
from bert_jax.exchange.tensors import Head, Row

# Of tf.contrib's layer norm, and of the model garden's encoders.
LAYER_NORM_EPS = 1e-12

# What Google's BertConfig takes where a key is missing.
_DEFAULTS = {
    "hidden_size": 768,
    "num_layers": 12,
    "num_heads": 12,
    "mlp_size": 3_072,
    "max_positions": 512,
}
_FIELDS = {
    ours: field._replace(default=_DEFAULTS.get(ours, field.default))
    for ours, field in BERT.fields.items()
    if ours != "layer_norm_eps"
} | {"gelu": Field("hidden_act", "gelu", {"gelu": "tanh"})}
# Our fields without a key there -> what the code of tf.contrib has built in.
_FIXED = {"layer_norm_eps": LAYER_NORM_EPS}
# Keys that make another model of it, with the values that do not.
_REFUSED: dict[str, list[Any]] = {
    "directionality": ["bidi"],
    "pooler_type": ["first_token_transform"],
    "layer_norm_eps": [LAYER_NORM_EPS],
    "model_type": ["bert"],
}
# Google's own code reads none of them in a BERT.
_IDLE = {
    *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "backward_compatible", "architectures"),
    "output_all_encoded_layers",
}
_READ = {"embedding_size", "do_lower_case"}
# Modules of transformers that are bare variables at Google, kernels [outputs, inputs].
_OUTPUTS = {
    "cls.seq_relationship": "cls/seq_relationship/",
    "classifier": "",
    "qa_outputs": "cls/squad/",
}
# The last part of our path -> how the variable's name ends.
_ENDINGS = {
    "kernel": "/kernel",
    "bias": "/bias",
    "scale": "/gamma",
    "embedding": "",
    "output_bias": "/output_bias",
}


def google_rows(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    """The names and layouts of all variables of a BERT with this head."""
    return tuple(_google_row(row) for row in BERT.rows(cfg, head))


def _google_row(row: Row) -> Row:
    module, _, kind = row.theirs.rpartition(".")
    if module in _OUTPUTS:
        name = {"weight": "output_weights", "bias": "output_bias"}[kind]
        return row._replace(theirs=_OUTPUTS[module] + name)
    ending = _ENDINGS[row.ours.rpartition("/")[2]]
    if row.ours.endswith("norm/bias"):
        ending = "/beta"
    name = re.sub(r"/layer/(\d+)/", r"/layer_\1/", module.replace(".", "/"))
    return row._replace(theirs=name + ending, transposed=False)


def config_from_google(
    path: pathlib.Path, config: Mapping[str, Any], notes: list[str]
) -> tuple[ModelConfig, DropoutConfig]:
    """Architecture and dropout that a bert_config.json states; remarks go to `notes`.

    Raises:
        ValueError: a key is missing, unknown, or asks for what does not exist here.
    """
    known = {field.key for field in _FIELDS.values()}.union(_REFUSED, _IDLE, _READ)
    if unknown := sorted(config.keys() - known):
        raise ValueError(
            f"{path} has keys that google-research/bert does not know: {unknown}. They "
            "may change what the model computes; remove those that do not."
        )
    refuse_keys(path, config, _REFUSED)
    given = read_fields(path, config, _FIELDS) | _FIXED
    notes.append("hidden_act 'gelu' is the tanh approximation at Google: gelu='tanh'.")
    return make_configs(path, config, given)


def config_to_google(cfg: ModelConfig, dropout: DropoutConfig) -> dict[str, Any]:
    """The content of a bert_config.json.

    Raises:
        ValueError: Google's config has no word for a field's value.
    """
    if cfg.gelu != "tanh":
        raise ValueError(
            f"ModelConfig.gelu={cfg.gelu!r}: Google's only GELU is the tanh "
            "approximation, so its tools would compute other logits. Export to Hugging "
            "Face instead, or train with gelu='tanh'."
        )
    if cfg.layer_norm_eps != LAYER_NORM_EPS:
        raise ValueError(
            f"ModelConfig.layer_norm_eps={cfg.layer_norm_eps}: Google's code has "
            f"{LAYER_NORM_EPS} built in. Export to Hugging Face instead."
        )
    if wordless := fields_without_words(cfg, _FIELDS, _FIXED):
        raise ValueError(
            f"ModelConfig.{', '.join(wordless)}: google-research/bert has no word for it "
            "and would compute other logits. Export to StableHLO instead."
        )
    return write_fields(cfg, dropout, _FIELDS)
