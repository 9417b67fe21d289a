"""ModernBERT as transformers has it: its config.json and the names of its tensors.

Source: Warner et al. 2024; transformers, models/modernbert.
"""

import pathlib
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.exchange.families import rope
from bert_jax.exchange.families.family import ENDS, Config, Family, Field, forms
from bert_jax.exchange.tensors import (
    Head,
    Row,
    dense,
    embedding,
    fused,
    norm,
    stacked,
)

_LAYER = "model.layers.{layer}."
_EVERY, _LOCAL, _GLOBAL = (
    "global_attn_every_n_layers",
    "sliding_attention",
    "full_attention",
)
# Of layers that do not exist, as `ModelConfig` has it.
_NO_THETA = ModelConfig.local_rope_theta
_THETAS = {_GLOBAL: "global_rope_theta", _LOCAL: "local_rope_theta"}


def rows(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    """The names and layouts of all tensors of a ModernBERT with this head."""
    first = tuple(norm("layers/attention/norm", "", with_bias=cfg.norm_bias))
    first = tuple(row._replace(theirs="", layer=0) for row in first)
    layers = tuple(stacked(_one_layer(cfg), cfg.num_layers))
    of_first = {row.ours for row in first}
    return (
        embedding("embed/token", "model.embeddings.tok_embeddings", "VD"),
        *norm("embed/norm", "model.embeddings.norm", with_bias=cfg.norm_bias),
        *first,
        *(row for row in layers if row.layer or row.ours not in of_first),
        *norm("final/norm", "model.final_norm", with_bias=cfg.norm_bias),
        *_head(cfg, head),
    )


def _one_layer(cfg: ModelConfig) -> tuple[Row, ...]:
    bias = cfg.dense_bias
    return (
        *norm("layers/attention/norm", f"{_LAYER}attn_norm", with_bias=cfg.norm_bias),
        *fused(
            f"{_LAYER}attn.Wqkv",
            ("layers/attention/query", "DNH", "NH"),
            ("layers/attention/key", "DNH", "NH"),
            ("layers/attention/value", "DNH", "NH"),
            with_bias=bias,
        ),
        *dense(
            *("layers/attention/out", f"{_LAYER}attn.Wo", "NHD", "D" if bias else ""),
            num_inputs=2,
        ),
        *norm("layers/mlp/norm", f"{_LAYER}mlp_norm", with_bias=cfg.norm_bias),
        *fused(
            f"{_LAYER}mlp.Wi",
            ("layers/mlp/gate", "DF", "F"),
            ("layers/mlp/up", "DF", "F"),
            with_bias=bias,
        ),
        *dense("layers/mlp/down", f"{_LAYER}mlp.Wo", "FD", "D" if bias else ""),
    )


def _head(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    def transform(ours: str) -> tuple[Row, ...]:
        bias = "D" if cfg.head_bias else ""
        return (
            *dense(f"{ours}/transform", "head.dense", "DD", bias),
            *norm(f"{ours}/norm", "head.norm", with_bias=cfg.norm_bias),
        )

    if head == "mlm":
        bias = [Row("mlm/output_bias", "decoder.bias", "V")] if cfg.mlm_bias else []
        return (*transform("mlm"), *bias)
    if head in ("mean_vector", "cls_vector"):
        return ()
    outputs = {"spans": "2"}.get(head, "C")
    own = dense(head, "classifier", f"D{outputs}", outputs)
    return (*transform("pooler"), *own)


def _spelled_out(path: pathlib.Path, config: Config) -> Config:
    """The keys of the first version, whichever version wrote the file."""
    config = dict(config)
    if (kinds := config.pop("layer_types", None)) is not None:
        config[_EVERY] = _every(path, kinds, config.get(_EVERY))
    config.setdefault(_EVERY, 3)
    parameters = config.pop(rope.KEYS, None) or {}
    for kind, key in _THETAS.items():
        if (theta := rope.theta_of(path, parameters.get(kind))) is not None:
            config[key] = theta
    if config[_EVERY] == 1:
        config |= {"local_attention": None, "local_rope_theta": _NO_THETA}
    for key, other in (
        ("mlp_bias", "attention_bias"),
        ("classifier_activation", "hidden_activation"),
    ):
        default = False if key == "mlp_bias" else "gelu"
        if config.get(key, default) != config.get(other, default):
            raise ValueError(
                f"{path} has {key}={config.get(key, default)!r} beside {other}="
                f"{config.get(other, default)!r}; both are one setting here."
            )
    return config


def _every(path: pathlib.Path, kinds: Any, stated: Any) -> int:
    """n, if the layers 0, n, 2 n, ... are global and all others are local.

    Where no second layer is global, more than one n says so; the stated one is taken if
    it is among them.
    """
    found = [kind == _GLOBAL for kind in kinds]
    every = found.index(True, 1) if True in found[1:] else len(found) or 1
    if isinstance(stated, int) and stated > every >= len(found):
        every = stated
    if found != [i % every == 0 for i in range(len(found))]:
        raise ValueError(
            f"{path} has layer_types={kinds}; expected a global layer ({_GLOBAL}) at the "
            "start and after every same number of local ones."
        )
    return every


def _respelled(config: Config, cfg: ModelConfig) -> Config:
    config = dict(config)
    every = config.pop(_EVERY)
    config["layer_types"] = [
        _LOCAL if cfg.reach(layer) is not None else _GLOBAL
        for layer in range(cfg.num_layers)
    ]
    thetas = {kind: config.pop(key) for kind, key in _THETAS.items()}
    config[rope.KEYS] = {
        kind: {"rope_type": "default", "rope_theta": theta}
        for kind, theta in thetas.items()
    }
    if cfg.local_window is None:
        del config["local_attention"]
    # What reads the first version's keys only, such as older releases.
    config |= {_EVERY: every, **{_THETAS[kind]: x for kind, x in thetas.items()}}
    config["mlp_bias"] = config["attention_bias"]
    config["mlp_dropout"] = config["embedding_dropout"]
    config["classifier_activation"] = config["hidden_activation"]
    return config


MODERNBERT = Family(
    model_type="modernbert",
    fields={
        "vocab_size": Field("vocab_size", 50_368),
        "hidden_size": Field("hidden_size", 768),
        "num_layers": Field("num_hidden_layers", 22),
        "num_heads": Field("num_attention_heads", 12),
        "mlp_size": Field("intermediate_size", 1_152),
        "max_positions": Field("max_position_embeddings", 8_192),
        "gelu": Field(
            "hidden_activation", "gelu", {"gelu": "exact", "gelu_pytorch_tanh": "tanh"}
        ),
        "dropout.hidden": Field("embedding_dropout", 0.0),
        "dropout.attention": Field("attention_dropout", 0.0),
        "layer_norm_eps": Field("norm_eps", 1e-5),
        "norm_bias": Field("norm_bias", False),
        "dense_bias": Field("attention_bias", False),
        "init_std": Field("initializer_range", 0.02),
        "rope_theta": Field("global_rope_theta", 160_000.0),
        "local_rope_theta": Field("local_rope_theta", 10_000.0),
        "local_window": Field("local_attention", 128, optional=True),
        "global_every": Field(_EVERY, 3),
        "mlm_bias": Field("decoder_bias", True),
        "head_bias": Field("classifier_bias", False),
        "pooling": Field("classifier_pooling", "cls", {"cls": "cls", "mean": "mean"}),
    },
    fixed={
        "mlp": "geglu",
        "norm_position": "pre",
        "positions": "rotary",
        "num_segments": 0,
        "init_by_depth": True,
        "next_sentence": False,
        "pooler": "mlm_transform",
    },
    spelled_out=_spelled_out,
    respelled=_respelled,
    refused={"rope_scaling": []},
    idle={
        *("initializer_cutoff_factor", "deterministic_flash_attn", "mlp_dropout"),
        *("sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad"),
        *("reference_compile", "gradient_checkpointing", "position_embedding_type"),
        *("mlp_bias", "classifier_activation"),
    },
    heads=forms("ModernBert", "mlm", "classifier", "tokens", "spans", "choice"),
    tokenizer_classes={"PreTrainedTokenizerFast", "TokenizersBackend"},
    rows=rows,
    prefix="model.",
    layer=_LAYER,
    special_keys={**ENDS, "cls_token_id": "cls", "sep_token_id": "sep"},
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
