"""EuroBERT as transformers has it: its config.json and the names of its tensors.

Source: Boizard et al. 2025; transformers, models/eurobert.
"""

import pathlib

from bert_jax.config import ModelConfig
from bert_jax.exchange.families import rope
from bert_jax.exchange.families.family import ENDS, Config, Family, Field, forms
from bert_jax.exchange.tensors import Head, Row, dense, embedding, norm, stacked

_LAYER = "model.layers.{layer}."
_ATTENTION, _MLP = f"{_LAYER}self_attn", f"{_LAYER}mlp"


def rows(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    """The names and layouts of all tensors of a EuroBERT with this head."""
    return (
        embedding("embed/token", "model.embed_tokens", "VD"),
        *stacked(_one_layer(cfg), cfg.num_layers),
        *norm("final/norm", "model.norm", with_bias=False),
        *_head(cfg, head),
    )


def _one_layer(cfg: ModelConfig) -> tuple[Row, ...]:
    def linear(ours: str, theirs: str, kernel: str, bias: str, num: int = 1) -> list:
        bias = bias if cfg.dense_bias else ""
        return list(dense(f"layers/{ours}", theirs, kernel, bias, num))

    after = f"{_LAYER}post_attention_layernorm"
    return (
        *norm("layers/attention/norm", f"{_LAYER}input_layernorm", with_bias=False),
        *linear("attention/query", f"{_ATTENTION}.q_proj", "DNH", "NH"),
        *linear("attention/key", f"{_ATTENTION}.k_proj", "DKH", "KH"),
        *linear("attention/value", f"{_ATTENTION}.v_proj", "DKH", "KH"),
        *linear("attention/out", f"{_ATTENTION}.o_proj", "NHD", "D", 2),
        *norm("layers/mlp/norm", after, with_bias=False),
        *linear("mlp/gate", f"{_MLP}.gate_proj", "DF", "F"),
        *linear("mlp/up", f"{_MLP}.up_proj", "DF", "F"),
        *linear("mlp/down", f"{_MLP}.down_proj", "FD", "D"),
    )


def _head(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    if head == "mlm":
        table = embedding("mlm/decoder", "lm_head", "VD")
        bias = Row("mlm/output_bias", "lm_head.bias", "V")
        return (
            *(() if cfg.tied_decoder else (table,)),
            *((bias,) if cfg.mlm_bias else ()),
        )
    if head == "classifier":
        own = dense("classifier", "classifier", "DC", "C")
        return (*dense("pooler", "dense", "DD", "D"), *own)
    if head == "tokens":
        return tuple(dense("tokens", "classifier", "DC", "C"))
    return ()


def _spelled_out(path: pathlib.Path, config: Config) -> Config:
    config = rope.with_theta(path, config)
    config.setdefault("num_key_value_heads", config.get("num_attention_heads", 12))
    if config["num_key_value_heads"] == config.get("num_attention_heads", 12):
        config["num_key_value_heads"] = None  # as many, which is what we say so
    biases = {config.get(key, False) for key in ("attention_bias", "mlp_bias")}
    if len(biases) > 1:
        raise ValueError(
            f"{path} has attention_bias={config.get('attention_bias', False)} beside "
            f"mlp_bias={config.get('mlp_bias', False)}; both are one setting here."
        )
    return config


def _respelled(config: Config, cfg: ModelConfig) -> Config:
    config = rope.with_parameters(config, cfg)
    if cfg.mlm_bias != cfg.dense_bias:
        raise ValueError(
            f"ModelConfig.mlm_bias={cfg.mlm_bias} beside dense_bias={cfg.dense_bias}: "
            "EuroBERT has one word for both. Export to StableHLO instead."
        )
    kv_heads = {"num_key_value_heads": cfg.kv_heads, "head_dim": cfg.head_size}
    return {**config, **kv_heads}


EUROBERT = Family(
    model_type="eurobert",
    fields={
        "vocab_size": Field("vocab_size", 128_256),
        "hidden_size": Field("hidden_size", 768),
        "num_layers": Field("num_hidden_layers", 12),
        "num_heads": Field("num_attention_heads", 12),
        "num_kv_heads": Field("num_key_value_heads", optional=True),
        "mlp_size": Field("intermediate_size", 3_072),
        "max_positions": Field("max_position_embeddings", 8_192),
        "mlp": Field("hidden_act", "silu", {"silu": "swiglu", "swish": "swiglu"}),
        "dropout.attention": Field("attention_dropout", 0.0),
        "layer_norm_eps": Field("rms_norm_eps", 1e-5),
        "init_std": Field("initializer_range", 0.02),
        "rope_theta": Field("rope_theta", 10_000.0),
        "dense_bias": Field("attention_bias", False),
        "mlm_bias": Field("mlp_bias", False),
        "tied_decoder": Field("tie_word_embeddings", False),
        "pooling": Field(
            "classifier_pooling", "late", {"bos": "cls", "mean": "mean", "late": "late"}
        ),
    },
    fixed={
        "norm_position": "pre",
        "norm": "rms",
        "embed_norm": False,
        "norm_bias": False,
        "positions": "rotary",
        "num_segments": 0,
        "mlm_transform": False,
        "next_sentence": False,
        "pooler": "gelu",
        "dropout.hidden": 0.0,
    },
    spelled_out=_spelled_out,
    respelled=_respelled,
    refused={"rope_scaling": [], "pretraining_tp": [1]},
    idle={"use_cache", "head_dim", "clf_pooling", "is_causal"},
    heads=forms("EuroBert", "mlm", "classifier", "tokens"),
    tokenizer_classes={"PreTrainedTokenizerFast", "TokenizersBackend"},
    rows=rows,
    prefix="model.",
    layer=_LAYER,
    special_keys={**ENDS, "mask_token_id": "mask"},
    tied={"lm_head.weight": "model.embed_tokens.weight"},
)
