"""What reading and writing Google's checkpoints share: bert_config.json, TensorFlow.

A directory of google-research/bert holds bert_config.json, vocab.txt and the files of
one checkpoint, `bert_model.ckpt.*`. Source: its README and modeling.py.
"""

import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.config_json import from_json

CONFIG_FILE = "bert_config.json"
VOCAB_FILE = "vocab.txt"
# Not Google's, but where the casing is stated if anywhere.
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHECKPOINT = "bert_model.ckpt"
# Ours: nothing of Google's keeps the names of a classifier's classes.
LABELS_FILE = "bert_jax_labels.json"
# Of tf.contrib's layer norm, and of the model garden's encoders.
LAYER_NORM_EPS = 1e-12

# Our field -> key there, and what Google's BertConfig takes where the key is missing.
_FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", None),
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "mlp_size": ("intermediate_size", 3_072),
    "max_positions": ("max_position_embeddings", 512),
    "num_segments": ("type_vocab_size", 2),
    "gelu": ("hidden_act", "gelu"),
    "init_std": ("initializer_range", 0.02),
}
# The same for the rates of dropout.
_DROPOUT_FIELDS = {
    "hidden": ("hidden_dropout_prob", 0.1),
    "attention": ("attention_probs_dropout_prob", 0.1),
}
# Keys that make another model of it, with the values that do not.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "directionality": ("bidi",),
    "pooler_type": ("first_token_transform",),
    "layer_norm_eps": (LAYER_NORM_EPS,),
    "model_type": ("bert",),
}
# Google's own code reads none of them in a BERT.
_IDLE = {
    *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "backward_compatible", "architectures"),
    "output_all_encoded_layers",
}
_READ = {
    *(key for key, _ in (*_FIELDS.values(), *_DROPOUT_FIELDS.values())),
    *("embedding_size", "do_lower_case"),
}


def tensorflow() -> Any:
    """The library, which an import of this module does not need.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ValueError(
            "Google's checkpoints need TensorFlow, which is not installed: "
            "pip install 'bert_jax[tf]'."
        ) from error


def config_from_google(
    path: pathlib.Path, config: Mapping[str, Any], notes: list[str]
) -> tuple[ModelConfig, DropoutConfig]:
    """Architecture and dropout that a bert_config.json states; remarks go to `notes`.

    Raises:
        ValueError: a key is missing, unknown, or asks for what does not exist here.
    """
    if unknown := sorted(config.keys() - _READ - _IDLE - _HARMLESS.keys()):
        raise ValueError(
            f"{path} has keys that google-research/bert does not know: {unknown}. They "
            "may change what the model computes; remove those that do not."
        )
    for key, harmless in _HARMLESS.items():
        if config.get(key, harmless[0]) not in harmless:
            raise ValueError(
                f"{path} has {key}={config[key]!r}; expected {harmless[0]!r}, or none. "
                "Its numbers would come out otherwise here."
            )
    given = {ours: config.get(key, default) for ours, (key, default) in _FIELDS.items()}
    if given["vocab_size"] is None:
        raise ValueError(f"{path} lacks 'vocab_size'; fetch it again.")
    if given["gelu"] != "gelu":
        raise ValueError(
            f"{path} has hidden_act={given['gelu']!r}; expected 'gelu'. No other "
            "activation exists here."
        )
    notes.append("hidden_act 'gelu' is the tanh approximation at Google: gelu='tanh'.")
    given |= {"gelu": "tanh", "layer_norm_eps": LAYER_NORM_EPS}
    try:
        model = from_json(ModelConfig, json.dumps(given))
        rates = {
            ours: config.get(key, default)
            for ours, (key, default) in _DROPOUT_FIELDS.items()
        }
        dropout = from_json(DropoutConfig, json.dumps(rates))
    except ValueError as error:
        raise ValueError(f"{path} describes no BERT that fits: {error}") from error
    if config.get("embedding_size") not in (None, model.hidden_size):
        raise ValueError(
            f"{path} has embedding_size={config['embedding_size']} beside hidden_size="
            f"{model.hidden_size}; there is no layer between the two here."
        )
    return model, dropout


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
    config = {key: getattr(cfg, ours) for ours, (key, _) in _FIELDS.items()}
    config |= {
        key: getattr(dropout, ours) for ours, (key, _) in _DROPOUT_FIELDS.items()
    }
    return config | {"hidden_act": "gelu"}
